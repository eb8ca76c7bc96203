"""What an edit rebuilds: as little as possible, and never too little."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import BRIEF, TINY, Site
from tests.acceptance.files import install_widgets, write_calibration
from tests.command import Workplace, action

EVERYTHING_OF_THE_MODEL = {"export", "simplify", "canonicalize", "reference", "run", "judge"}


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_base_is_sound(tiny: Site) -> None:
    assert tiny.built.code == 0, tiny.built.text
    assert tiny.built.statuses()["quantize"] == "ran"


def test_an_edit_of_the_model_rebuilds_what_depends_on_it(edited: Workplace) -> None:
    # The accident: Olive reused all three results after an edit of BatchNorm's eps.
    replace(edited.directory / "networks.py", "eps: float = 1e-5", "eps: float = 0.5")
    planned = edited.run("plan", *TINY).out
    built = edited.build(*TINY)

    assert "source of networks changed" in planned
    assert built.code == 0, built.text
    assert built.ran() >= {*EVERYTHING_OF_THE_MODEL, "quantize", "build", "audit"}
    assert {built.statuses()["samples"], built.statuses()["calibration data"]} == {"cached"}


def test_a_comment_runs_nothing(edited: Workplace) -> None:
    networks = edited.directory / "networks.py"
    networks.write_text("# A comment.\n\n\n" + networks.read_text() + "\n# Another.\n")
    built = edited.build(*TINY)

    assert built.code == 0
    assert built.ran() == set()
    assert built.heavy == []


def test_a_tolerance_judges_again_without_running(edited: Workplace) -> None:
    strict = edited.build(*TINY, "compare.int8.snr_db=90")

    assert strict.code == 1
    assert strict.ran() == set()
    assert strict.heavy == []
    fp32, int8 = (strict.variant(f"precision={name}") for name in ("fp32", "int8"))
    assert (fp32["status"], int8["status"]) == ("passed", "failed")
    assert "compare.int8.snr_db" in int8["failures"][0]["message"]
    # What the failed gate would have let through is not run, but what was found is still told.
    assert action(int8, "judge lowered")["status"] == "cached"


def test_calibration_content_requantizes_only(edited: Workplace) -> None:
    write_calibration(edited.directory, seed=2)
    built = edited.build(*TINY)
    statuses = built.statuses()

    assert built.code == 0, built.text
    assert statuses["calibration data"] == statuses["quantize"] == "ran"
    assert {statuses[role] for role in ("samples", "export", "reference", "canonicalize")} == {
        "cached"
    }
    fp32 = built.variant("precision=fp32")
    assert {one["status"] for one in fp32["actions"]} == {"cached"}


def test_a_cut_artifact_is_found_and_built_again(edited: Workplace) -> None:
    before = edited.build(*TINY)
    directory = Path(before.variant("precision=int8")["directory"])
    stump = (directory / "artifacts" / "lowered" / "model.onnx").resolve()
    whole = stump.read_bytes()
    stump.chmod(0o644)
    stump.write_bytes(whole[:1000])
    after = edited.build(*TINY)

    assert after.code == 0, after.text
    assert after.ran() == {"quantize"}
    (warning,) = after.results["warnings"]
    assert "quantize" in warning
    assert "1000 bytes" in warning
    assert stump.read_bytes() == whole
    assert edited.whole()


@pytest.mark.slow
def test_an_upgraded_distribution_exports_again(edited: Workplace) -> None:
    # networks.py imports widgets 1.0; a newer one is installed as pip does it.
    install_widgets(edited.directory / "site", "1.1")
    arguments = ("model=tiny", *BRIEF)
    planned = edited.run("plan", *arguments).out
    built = edited.build(*arguments)

    assert re.search(r"runs +export .*widgets 1\.0 → 1\.1", planned)
    assert built.code == 0, built.text
    # The same graph came out: canonicalize removes what is left of the sources' place.
    assert (
        {"export", "reference"}
        <= built.ran()
        <= {"export", "reference", "simplify", "canonicalize"}
    )


@pytest.mark.slow
def test_an_export_option_without_effect_shares_what_follows(
    demo: Site, copy_of: Callable[[Site], Workplace]
) -> None:
    # Without onnxscript's optimizer there is nothing that folds constants.
    options = ("exporter.optimize=false", "exporter.constant_folding=true,false")
    built = copy_of(demo).build("-m", *options, "benchmark=none")
    ran = Counter(
        one["role"]
        for variant in built.variants
        for one in variant["actions"]
        if one["status"] == "ran"
    )

    assert built.code == 0, built.text
    assert ran.pop("export") == 2
    assert set(ran) >= {"simplify", "canonicalize", "run onnx", "build", "run session"}
    assert set(ran.values()) == {1}


def test_a_salt_disowns_and_rebuild_repeats(edited: Workplace) -> None:
    salted = edited.run("plan", "--json", *TINY, "cache.salt=other").json()["actions"]
    rebuilt = edited.build(*TINY, "--rebuild", "canonicalize,judge")

    assert {one["state"] for one in salted} <= {"runs", "depends"}
    assert rebuilt.ran() == {"canonicalize", "judge"}
