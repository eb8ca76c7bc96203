"""``orchestrate [verb] [flags] [Hydra overrides]``: parses our flags, imports what a verb needs.

Nothing beyond the standard library is imported before a verb is chosen, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from orchestrator.errors import OrchestrateError, UsageError, nearest

VERBS: Final = {
    "build": "build variants (the default verb)",
    "plan": "what would run, what is cached, and why; runs nothing",
    "explain": "why each action hit or missed: of an experiment, or of a future run",
    "reproduce": "build one experiment again and compare, stage by stage",
    "check-plan": "whether a TensorRT plan will load here, and why not",
    "package": "copy one experiment's artifacts into a directory of their own",
    "cache": "the store: stats, verify, forget, gc",
    "doctor": "what is installed, what works here, and what to do about the rest",
    "schema": "JSON Schemas of the config groups, for editors",
}
_EPILOG: Final = """\
verbs:
{verbs}

examples:
  orchestrate                                    the bundled digits network, fp32
  orchestrate -m precision=fp32,fp16,int8        three variants, one graph
  orchestrate plan model=minilm precision=int8   what that would run
  orchestrate cache stats

'orchestrate VERB --help' has a verb's own options; '--cfg job' prints the whole configuration;
'--shell-completion install=bash' (or zsh, fish) prints what your shell's start file should eval.
Exit codes: 0 all passed, 1 a variant failed, 2 wrong usage or configuration, 3 the store,
130 interrupted; check-plan: 0 will load, 1 will not, 4 not known.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    with _polite_ends() as ended:
        code = _run(words)
    return 128 + ended[0] if ended else code


@contextlib.contextmanager
def _polite_ends() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does; give the number of the one that came.

    One that is ignored stays ignored: ``nohup`` wants a run to outlive its terminal.
    """
    ended: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        if not ended:
            ended.append(number)
            raise KeyboardInterrupt

    heard = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(words: list[str]) -> int:
    tell = _tell_program if "--json" in words else _tell_person
    try:
        verb, rest = _verb(words)
        _check_place(words)
        module = importlib.import_module(f"orchestrator.cli.{verb.replace('-', '_')}")
        code: int = module.main(rest)
        sys.stdout.flush()
    except OrchestrateError as exc:
        tell(exc, "error")
        return exc.exit_code
    except KeyboardInterrupt:
        kept = OrchestrateError("what was finished is kept", hint="the same command goes on")
        tell(kept, "interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (| head): end quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            tell(_bug(exc), "internal error")
            return 70
        # The store explains itself; this is where the output or an experiment directory goes.
        full = OrchestrateError(f"cannot write: {exc.strerror}", hint="free some space there")
        tell(full, "error")
        return os.EX_IOERR
    except Exception as exc:  # noqa: BLE001  # a fault of ours: one line, the traceback in a file
        tell(_bug(exc), "internal error")
        return 70
    return code


def _tell_person(error: OrchestrateError, kind: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone; the exit code tells
        print(f"{kind}: {error.render()}", file=sys.stderr)


def _tell_program(error: OrchestrateError, kind: str) -> None:
    from orchestrator.report.events import emit, error_fields

    emit("interrupted" if kind == "interrupted" else "error", **error_fields(error))


def _prepare_streams() -> None:
    """Make printing safe: a closed stream stays silent, an unknown character becomes ``?``."""
    # A file opened later must not get the number of a closed stream, or prints would go into it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _check_place(words: Sequence[str]) -> None:
    """Refuse what no verb can work with.

    Raises:
        UsageError: the working directory is gone, or a word is no text.
    """
    try:
        Path.cwd()
    except FileNotFoundError as exc:
        raise UsageError("the working directory does not exist any more", hint="cd .") from exc
    for word in words:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(f"{word!r} is no UTF-8", hint="check the terminal's encoding")


def parser(verb: str, summary: str) -> argparse.ArgumentParser:
    """Return the parser of a verb, with the options that all verbs share."""
    return argparse.ArgumentParser(
        prog=f"orchestrate {verb}",
        description=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )


def add_hydra_options(made: argparse.ArgumentParser) -> None:
    """Add Hydra's options and the overrides to the parser of a verb that composes variants."""
    made.add_argument("overrides", nargs="*", help="key=value, +key=value, ~key, group=option")
    made.add_argument(
        "-m", "--multirun", action="store_true", help="sweep over comma-separated values"
    )
    made.add_argument("-cd", "--config-dir", metavar="DIR", help="configurations that come first")
    made.add_argument("-cn", "--config-name", metavar="NAME", help="another primary configuration")


def parse(made: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse *words*.

    Raises:
        UsageError: an unknown or incomplete option.
    """
    try:
        known, unknown = made.parse_known_intermixed_args(list(words))
    except argparse.ArgumentError as exc:
        raise UsageError(str(exc), hint=f"see '{made.prog} --help'") from exc
    if unknown:
        options = [text for action in made._actions for text in action.option_strings]
        raise UsageError(
            f"unknown option '{unknown[0]}'",
            where=made.prog,
            hint=nearest(unknown[0], options) or f"see '{made.prog} --help'",
        )
    return known


def _verb(words: list[str]) -> tuple[str, list[str]]:
    """Return the verb and the words that are its own.

    Raises:
        UsageError: the first word is neither a verb nor an override.
    """
    if words and words[0] in VERBS:
        return words[0], words[1:]
    if words and words[0] in ("-h", "--help"):
        _help()
        raise SystemExit(0)
    if words and words[0] == "--version":
        import orchestrator

        print(f"orchestrate {orchestrator.__version__}")
        raise SystemExit(0)
    if words and not words[0].startswith(("-", "+", "~")) and "=" not in words[0]:
        raise UsageError(
            f"'{words[0]}' is neither a verb nor an override (key=value)",
            hint=nearest(words[0], VERBS) or f"verbs: {', '.join(VERBS)}",
        )
    return "build", words


def _bug(exc: Exception) -> OrchestrateError:
    """Write the traceback to a file; return what to say."""
    with tempfile.NamedTemporaryFile(
        "w",
        prefix="orchestrate-",
        suffix=".txt",
        delete=False,
        encoding="utf-8",
        errors="replace",
    ) as file:
        traceback.print_exception(exc, file=file)
    return OrchestrateError(
        f"{type(exc).__name__}: {exc}",
        hint=f"this is a fault of orchestrate; please report it with {file.name}",
    )


def _help() -> None:
    verbs = "\n".join(f"  {name:10} {text}" for name, text in VERBS.items())
    made = argparse.ArgumentParser(
        prog="orchestrate",
        usage="orchestrate [verb] [flags] [Hydra overrides]",
        description="PyTorch models to verified ONNX files and runnable artifacts, from YAML.",
        epilog=_EPILOG.format(verbs=verbs),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="store_true", help="print the version")
    from orchestrator.cli.build import add_options

    add_options(made)
    made.print_help()


if __name__ == "__main__":
    sys.exit(main())
