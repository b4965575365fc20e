"""Fills the PostgreSQL database of a Prefect server: copies of a few runs that the API created.

    fill.py URL fill PLAN      everything in a plan (JSON)
    fill.py URL end FIRST COUNT TEMPLATE DEPLOYMENTS FLOWS
                               runs that end now, of COUNT deployments
"""

import asyncio
import json
import sys

import asyncpg

# A function in `from` is called once per row; `(f(…)).*` would call it once per column.
FLOWS = """
insert into flow select copy.*
from flow t, generate_series(0, $2::int - 1) n, jsonb_populate_record(t, jsonb_build_object(
    'id', md5('flow' || n)::uuid, 'name', 'flow-' || n)) copy
where t.id = $1::uuid
"""
DEPLOYMENTS = """
insert into deployment select copy.*
from deployment t, generate_series(0, $2::int - 1) n, jsonb_populate_record(t, jsonb_build_object(
    'id', md5('deployment' || n)::uuid, 'name', 'deployment-' || n,
    'flow_id', md5('flow' || n % $3::int)::uuid,
    'work_queue_id', ($4::uuid[])[1 + n % array_length($4::uuid[], 1)])) copy
where t.id = $1::uuid
"""
# The runs FIRST to LAST of a plan, spread over the seconds before now (negative: after now).
RUNS = """
insert into flow_run select copy.*
from flow_run t, generate_series($2::int, $3::int) n,
    lateral (select now() - make_interval(
        secs => $6::float + ($7::float - $6::float) * (n - $2::int) / ($3::int - $2::int + 1)) as at) moment,
    jsonb_populate_record(t, jsonb_build_object(
    'id', md5('run' || n)::uuid, 'name', 'run-' || n, 'state_id', md5('state' || n)::uuid,
    'deployment_id', md5('deployment' || n % $4::int)::uuid,
    'flow_id', md5('flow' || n % $4::int % $5::int)::uuid,
    'work_queue_id', (select work_queue_id from deployment where id = md5('deployment' || n % $4::int)::uuid),
    'expected_start_time', case when t.state_type = 'SCHEDULED' then at else at - interval '90 seconds' end,
    'next_scheduled_start_time', case when t.state_type = 'SCHEDULED' then at end,
    'start_time', case when t.start_time is not null then at - interval '80 seconds' end,
    'end_time', case when t.end_time is not null then at end,
    'total_run_time', case when t.end_time is not null then interval '80 seconds' else t.total_run_time end,
    'state_timestamp', at, 'created', at - interval '95 seconds', 'updated', at)) copy
where t.id = $1::uuid
"""
STATES = """
insert into flow_run_state select copy.*
from flow_run t join flow_run_state s on s.id = t.state_id, generate_series($2::int, $3::int) n
    join flow_run r on r.id = md5('run' || n)::uuid,
    jsonb_populate_record(s, jsonb_build_object(
    'id', md5('state' || n)::uuid, 'flow_run_id', r.id, 'timestamp', r.state_timestamp)) copy
where t.id = $1::uuid
"""


async def runs(database, template, first, count, deployments, flows, since, until):
    last = first + count - 1
    await database.execute(RUNS, template, first, last, deployments, flows, since, until)
    await database.execute(STATES, template, first, last)


async def fill(database, plan):
    flows, deployments = plan["flows"], plan["deployments"]
    await database.execute(FLOWS, plan["flow"], flows)
    await database.execute(DEPLOYMENTS, plan["deployment"], deployments, flows, plan["queues"])
    await database.execute("analyze deployment")
    first = 0
    for template, count, since, until in plan["runs"]:
        await runs(database, template, first, count, deployments, flows, since, until)
        first += count
    await database.execute("analyze")


async def main():
    url, command, *rest = sys.argv[1:]
    database = await asyncpg.connect(url, command_timeout=3600)
    # A run refers to its state, and the state to its run.
    await database.execute("set session_replication_role = replica")
    if command == "fill":
        await fill(database, json.loads(rest[0]))
    else:
        first, count, template, deployments, flows = rest
        await runs(database, template, int(first), int(count), int(deployments), int(flows), 1, 0)


asyncio.run(main())
