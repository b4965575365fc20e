"""Writes the dashboards: grafana/build."""

import argparse
import sys
from pathlib import Path

from . import agent, deployment, numbers, overview, work_pools
from .frame import exported, written

FOLDER = Path(__file__).resolve().parent.parent / "dashboards"
BOARDS = {
    "overview.json": overview.board,
    "deployment.json": deployment.board,
    "work-pools.json": work_pools.board,
    "agent.json": agent.board,
    "numbers.json": numbers.board,
}


def main():
    parser = argparse.ArgumentParser(prog="grafana/build", description="Writes grafana/dashboards from grafana/source.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    parser.add_argument("--export", metavar="DIR", type=Path, help="write files for grafana.com into DIR")
    arguments = parser.parse_args()
    stale = []
    for name, make in BOARDS.items():
        board = make()
        if arguments.export:
            arguments.export.mkdir(parents=True, exist_ok=True)
            (arguments.export / name).write_text(written(exported(board)))
            continue
        path = FOLDER / name
        if path.exists() and path.read_text() == written(board):
            continue
        if arguments.check:
            stale.append(path)
        else:
            path.write_text(written(board))
    for path in stale:
        print(f"grafana/build: {path.relative_to(FOLDER.parent.parent)} is stale; run grafana/build", file=sys.stderr)
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
