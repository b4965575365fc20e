"""Tests of release.py: python3 -m unittest discover packaging"""

import datetime
import pathlib
import re
import tarfile
import tempfile
import unittest
import zipfile

import release

CHANGELOG = """# Changelog

## Unreleased

### Added

- What comes next.

## 0.2.0 - 2026-12-01

### Fixed

- A count.

## 0.1.0 - unreleased

- The agent.

## 0.0.1 - 2026-01-01
"""


class Notes(unittest.TestCase):
    def refused(self, tag, version):
        with self.assertRaises(release.Refused) as refusal:
            release.notes(tag, version, CHANGELOG)
        return str(refusal.exception)

    def test_a_dated_section_is_printed_without_its_heading(self):
        self.assertEqual(release.notes("v0.2.0", "0.2.0", CHANGELOG), "### Fixed\n\n- A count.\n")

    def test_a_section_without_a_date_is_refused(self):
        self.assertIn("'## 0.1.0 - unreleased' must be '## 0.1.0 - YYYY-MM-DD'", self.refused("v0.1.0", "0.1.0"))

    def test_a_version_without_a_section_is_refused(self):
        self.assertIn("no section of 0.3.0", self.refused("v0.3.0", "0.3.0"))

    def test_an_empty_section_is_refused(self):
        self.assertIn("0.0.1 is empty", self.refused("v0.0.1", "0.0.1"))

    def test_a_tag_of_another_version_is_refused(self):
        self.assertIn("the tag must be v0.2.0", self.refused("v0.2.1", "0.2.0"))
        self.assertIn("the tag must be v0.2.0", self.refused("0.2.0", "0.2.0"))

    def test_the_changelog_has_unreleased_on_top_and_a_section_of_this_version(self):
        text = (release.ROOT / "CHANGELOG.md").read_text()
        headings = re.findall(r"^## (.+)$", text, re.M)
        self.assertEqual(headings[0], "Unreleased")
        of_this_version = [heading for heading in headings if heading.split()[0] == release.version()]
        self.assertEqual(len(of_this_version), 1, headings)
        for heading in headings[1:]:
            date = heading.split(" - ")[1]
            if date != "unreleased":
                datetime.date.fromisoformat(date)


class Version(unittest.TestCase):
    def test_a_pre_release_is_written_as_python_does(self):
        self.assertEqual(release.python_version("0.2.0-rc.1"), "0.2.0rc1")
        self.assertEqual(release.python_version("0.2.0-beta.2"), "0.2.0b2")
        self.assertEqual(release.python_version("0.2.0"), "0.2.0")


class Archive(unittest.TestCase):
    def test_the_archive_has_an_executable_binary_and_the_documents(self):
        with tempfile.TemporaryDirectory() as folder:
            wheel = pathlib.Path(folder) / "any.whl"
            with zipfile.ZipFile(wheel, "w") as files:
                files.writestr(f"prefect_otel_agent-{release.version()}.data/scripts/prefect-otel-agent", b"\x7fELF")
                files.writestr("other", b"other")
            path = release.archive(wheel, "x86_64-unknown-linux-musl", folder)
            base = f"prefect-otel-agent-{release.version()}-x86_64-unknown-linux-musl"
            self.assertEqual(path.name, f"{base}.tar.gz")
            with tarfile.open(path) as packed:
                modes = {entry.name: entry.mode for entry in packed}
                self.assertEqual(
                    modes,
                    {
                        f"{base}/prefect-otel-agent": 0o755,
                        f"{base}/README.md": 0o644,
                        f"{base}/CHANGELOG.md": 0o644,
                        f"{base}/LICENSE": 0o644,
                    },
                )
                self.assertEqual(packed.extractfile(f"{base}/prefect-otel-agent").read(), b"\x7fELF")


if __name__ == "__main__":
    unittest.main()
