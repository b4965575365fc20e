#!/usr/bin/env python3
"""What a release needs besides the build.

    packaging/release.py notes TAG                          the changelog's section of that version
    packaging/release.py archive WHEEL TARGET FOLDER        the binary of a wheel, as an archive

`notes` fails unless the tag is v and the version of Cargo.toml, and its section has a date.
"""

import io
import pathlib
import re
import sys
import tarfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = "prefect-otel-agent"
DOCUMENTS = ["README.md", "CHANGELOG.md", "LICENSE"]


class Refused(Exception):
    """Why there is nothing to release."""


def version():
    return re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)


def python_version(cargo):
    """The version as Python writes it: 0.2.0-rc.1 is 0.2.0rc1."""
    short = {"alpha": "a", "beta": "b", "rc": "rc"}
    return re.sub(r"-(alpha|beta|rc)\.?(\d+)$", lambda match: short[match[1]] + match[2], cargo)


def notes(tag, current, changelog):
    """The text of the section of `tag`, without its heading."""
    if tag != f"v{current}":
        raise Refused(f"the tag is {tag}, the version in Cargo.toml {current}: the tag must be v{current}")
    parts = re.split(r"^## (.+)\n", changelog, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2]))
    heading = next((heading for heading in sections if heading.split()[0] == current), None)
    if heading is None:
        raise Refused(f"CHANGELOG.md has no section of {current}")
    if not re.fullmatch(re.escape(current) + r" - \d{4}-\d{2}-\d{2}", heading):
        raise Refused(f"CHANGELOG.md: '## {heading}' must be '## {current} - YYYY-MM-DD'")
    text = sections[heading].strip()
    if not text:
        raise Refused(f"CHANGELOG.md: the section of {current} is empty")
    return text + "\n"


def archive(wheel, target, folder):
    """Packs the binary of `wheel` and the documents into an archive in `folder`; returns its path."""
    with zipfile.ZipFile(wheel) as files:
        [script] = [name for name in files.namelist() if name.endswith(f".data/scripts/{NAME}")]
        binary = files.read(script)
    base = f"{NAME}-{version()}-{target}"
    path = pathlib.Path(folder) / f"{base}.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        contents = [(NAME, binary, 0o755)]
        contents += [(name, (ROOT / name).read_bytes(), 0o644) for name in DOCUMENTS]
        for name, content, mode in contents:
            entry = tarfile.TarInfo(f"{base}/{name}")
            entry.size, entry.mode = len(content), mode
            packed.addfile(entry, io.BytesIO(content))
    return path


def main(arguments):
    try:
        match arguments:
            case ["notes", tag]:
                print(notes(tag, version(), (ROOT / "CHANGELOG.md").read_text()), end="")
            case ["archive", wheel, target, folder]:
                print(archive(wheel, target, folder))
            case _:
                sys.exit(__doc__.strip())
    except Refused as refusal:
        sys.exit(f"packaging/release.py: {refusal}")


if __name__ == "__main__":
    main(sys.argv[1:])
