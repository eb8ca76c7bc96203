"""Checks that every relative link in the repository's Markdown files leads somewhere.

A link with an anchor must lead to a heading. Exits 1 and names each link that does not.
"""

import re
import subprocess
import sys
from pathlib import Path

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Headings as the anchors that code hosts make of them: lower case, dashes, no punctuation."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(text)
    }


def problems(document: Path) -> list[str]:
    wrong = []
    for link in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
        target, _, anchor = link.partition("#")
        if ":" in target:
            continue  # another site: checking it needs a network
        path = document.parent / target if target else document
        if not path.exists():
            wrong.append(f"{document}: {link} leads nowhere")
        elif (
            anchor
            and path.suffix == ".md"
            and anchor not in anchors(path.read_text(encoding="utf-8"))
        ):
            wrong.append(f"{document}: {link} has no such heading")
    return wrong


if __name__ == "__main__":
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    documents = [Path(line) for line in listed.stdout.splitlines()]
    found = [problem for document in documents for problem in problems(document)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"{len(documents)} documents, every relative link leads somewhere")
    sys.exit(1 if found else 0)
