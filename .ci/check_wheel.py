"""Checks, in the environment that a wheel was installed into, what the wheel brought along.

Run it with that environment's interpreter from an empty directory.
"""

import sys
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import orchestrator

# What the command needs besides code, by a pattern that must match at least one installed file.
NEEDED = (
    "orchestrator/py.typed",
    "orchestrator/_bundled/conf/orchestrate.yaml",
    "orchestrator/_bundled/conf/*/*.yaml",
    "orchestrator/_bundled/plugins/**/*.py",
    "orchestrator/examples/digits/**/*.npz",
    "orchestrator/examples/digits/**/*.safetensors",
    "orchestrator/examples/minilm/**/*.txt",
)


def problems() -> list[str]:
    installed = distribution("orchestrate")
    files = [PurePosixPath(file) for file in installed.files or []]
    site = Path(str(installed.locate_file("")))
    wrong = []
    origin = Path(orchestrator.__file__ or "")
    if not origin.is_relative_to(site):
        wrong.append(f"`import orchestrator` found {origin}, not the installed wheel in {site}")
    top = {file.parts[0] for file in files if file.parts[0] != ".."}
    extra = sorted(name for name in top if name != "orchestrator" and ".dist-info" not in name)
    if extra:
        wrong.append(f"the wheel puts {extra} at the top of site-packages")
    wrong += [
        f"site-packages has a top-level {n}/" for n in ("conf", "plugins") if (site / n).exists()
    ]
    wrong += [f"no {pattern}" for pattern in NEEDED if next(site.glob(pattern), None) is None]
    return wrong


if __name__ == "__main__":
    found = problems()
    for problem in found:
        print(f"wheel: {problem}", file=sys.stderr)
    if not found:
        print("the wheel carries what it should, and nothing else")
    sys.exit(1 if found else 0)
