//! Everything that is tested through the library or the binary, as one test program.

mod cli;
mod documentation;
mod end_to_end;
mod exactly_once;
mod faults;
mod fleet;
mod lifecycle;
mod otlp;
mod support;
