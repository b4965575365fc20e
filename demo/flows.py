"""The sample flows of the demo. They are ordinary Prefect flows.

    python flows.py     creates work pools, queues and deployments, and starts the first runs

A worker runs them: prefect worker start --pool demo --type process
"""

import os
import random
import signal
import time
import urllib.request
from pathlib import Path

from prefect import flow, get_client, task
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectAlreadyExists


@task(tags=["database"])
def extract(rows: int) -> list[int]:
    return [random.randrange(100) for _ in range(rows)]


@task
def total(rows: list[int]) -> int:
    return sum(rows)


@task
def square(number: int) -> None:
    """Calls the example service, if there is one, whose metrics are collected alongside Prefect's."""
    if url := os.environ.get("NUMBERS_URL"):
        for path in [f"/square?num={number}", f"/even?num={number}", "/treecounter"]:
            request = urllib.request.Request(url + path, headers={"user": "demo"})
            urllib.request.urlopen(request, timeout=10).read()


@flow
def etl(rows: int = 100) -> int:
    """Succeeds, quickly."""
    rows_total = total(extract(rows))
    square(rows_total % 100)
    return rows_total


@flow
def report(seconds: int = 40) -> None:
    """Succeeds, slowly, so that one run is always active."""
    time.sleep(seconds)


@flow(retries=2, retry_delay_seconds=10)
def flaky() -> None:
    """Fails every other time, and is retried by Prefect."""
    if random.random() < 0.5:
        raise ConnectionError("the source did not answer")


@flow
def broken() -> None:
    """Fails."""
    raise ValueError("a column is missing")


@flow
def crashing() -> None:
    """Ends its process, which Prefect reports as a crash."""
    os.kill(os.getpid(), signal.SIGKILL)


def deploy() -> None:
    """Creates everything that does not exist yet."""
    with get_client(sync_client=True) as client:
        for pool in ["demo", "unattended"]:
            try:
                client.create_work_pool(WorkPoolCreate(name=pool, type="process", concurrency_limit=5))
            except ObjectAlreadyExists:
                pass
        try:
            client.create_work_queue(name="urgent", work_pool_name="demo", priority=1, concurrency_limit=2)
        except ObjectAlreadyExists:
            pass
        client.upsert_global_concurrency_limit_by_name("warehouse", 4)
        client.create_concurrency_limit(tag="database", concurrency_limit=3)
    here = Path(__file__)
    for entry, name, pool, queue, seconds, tags in [
        (etl, "hourly", "demo", "urgent", 30, ["team:data", "tier:1"]),
        (report, "daily", "demo", "default", 60, ["team:finance"]),
        (flaky, "sync", "demo", "default", 45, ["team:data"]),
        (broken, "legacy", "demo", "default", 90, ["team:legacy"]),
        (crashing, "heavy", "demo", "default", 120, []),
        # No worker polls this pool, so its runs become late and stay late.
        (etl, "backfill", "unattended", "default", 300, ["team:data"]),
    ]:
        source = entry.from_source(source=str(here.parent), entrypoint=f"{here.name}:{entry.__name__}")
        deployment = source.to_deployment(name, interval=seconds, tags=tags)
        deployment.work_pool_name, deployment.work_queue_name = pool, queue
        deployment.apply()
        run_deployment(f"{entry.name}/{name}", timeout=0)
        print(f"deployed {entry.name}/{name}, every {seconds} s", flush=True)


if __name__ == "__main__":
    deploy()
