//! Faults of everything around the agent, one per row of a table: what the agent must do about each
//! of them, whatever it is, and what the operator sees. `docs/reliability.md` has the same table.
//!
//! Each row runs alone with `FAULTS=name cargo test --test integration faults`.

mod attack;
mod collector;
mod cycles;
mod document;
mod host;
mod objects;
mod port;
mod prefect;
mod row;
mod run;
mod signals;
mod subject;

use row::Row;

/// The groups: a test each, with the tables of its rows, and their title in the documentation.
macro_rules! groups {
    ($($name:ident, $title:literal: $($rows:expr),*;)*) => {
        /// Every group: its name, its title and its rows.
        const GROUPS: &[(&str, &str, &[&[Row]])] = &[$((stringify!($name), $title, &[$($rows),*])),*];

        $(#[test]
        fn $name() {
            run::all(&[$($rows),*]);
        })*
    };
}

groups! {
    statuses_of_prefect, "Statuses of Prefect": prefect::STATUSES, prefect::WAITS, prefect::CSRF;
    connections_to_prefect, "Connections to Prefect": prefect::CONNECTIONS;
    answers_of_prefect, "Answers of Prefect": prefect::BODIES, prefect::COUNTS;
    objects_of_prefect, "Objects of Prefect": objects::OBJECTS, objects::RUNS;
    lists_of_the_inventory, "Lists of the inventory":
        prefect::DEPLOYMENTS, prefect::MORE_OF_DEPLOYMENTS, prefect::FLOWS, prefect::POOLS, prefect::QUEUES, prefect::WORKERS;
    other_lists, "Other lists":
        prefect::RUNS, prefect::MORE_OF_RUNS, prefect::HISTORY, prefect::AUTOMATIONS, prefect::LIMITS;
    collectors_over_http, "Collectors over HTTP": collector::HTTP;
    collectors_over_grpc, "Collectors over gRPC": collector::GRPC;
    clients_of_the_port, "Clients of the agent's port": port::CLIENTS;
    requests_to_the_port, "Requests to the agent's port": port::REQUESTS;
    disks_and_limits, "Disks and limits": host::DISKS, host::LIMITS;
    streams_and_starts, "Streams, and starts that must fail": host::STREAMS, host::STARTS;
    signals, "Signals":
        signals::TERM, signals::INT, signals::HUP, signals::KILL, signals::STOP, signals::OTHERS;
}
