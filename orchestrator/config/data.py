"""Where a model's sample data come from: the typed schema of ``model.samples`` and its like."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.config.groups import Arguments, Count, Dotted, Group


class Generator(Group):
    """How one input is drawn."""

    distribution: Literal["normal", "uniform", "integers", "constant"] = "normal"
    mean: float = Field(default=0.0, description="normal: mean.")
    std: Annotated[float, Field(gt=0)] = Field(default=1.0, description="normal: deviation.")
    low: float = Field(default=0.0, description="uniform, integers: lower bound (inclusive).")
    high: float = Field(default=1.0, description="uniform, integers: upper bound (exclusive).")
    value: float = Field(default=0.0, description="constant: the value.")


class GeneratorData(Group):
    """Data drawn from a seeded random generator (NumPy's PCG64)."""

    kind: Literal["generator"]
    seed: int = 0
    inputs: dict[str, Generator] = Field(
        default_factory=dict, description="Per input; an input not named is drawn as normal(0, 1)."
    )


class ArrayData(Group):
    """Data from NumPy files; axis 0 counts the items."""

    kind: Literal["npz", "npy"]
    path: str | None = Field(
        default=None, description="npz: the file (pkg://package/file or path)."
    )
    arrays: dict[str, str] = Field(
        default_factory=dict,
        description="npz: input to array name (default: equal names). npy: input to file.",
    )
    labels: str | None = Field(default=None, description="npz: array name; npy: file with labels.")
    start: Annotated[int, Field(ge=0)] = Field(default=0, description="First item used.")
    stop: Count | None = Field(default=None, description="One past the last item used.")
    scale: float = Field(default=1.0, description="Every value is multiplied by this.")


class ImageData(Group):
    """A folder of images, in the order of their sorted paths; sub-folders name the classes."""

    kind: Literal["images"]
    path: str = Field(description="Folder; png, jpg, jpeg, bmp, webp are read with Pillow.")
    input: str | None = Field(default=None, description="The input fed (default: the only one).")
    mode: Literal["RGB", "L"] = "RGB"
    resize: Count | None = Field(
        default=None, description="Shorter side is resized to this, in pixels."
    )
    layout: Literal["nchw", "nhwc"] = "nchw"
    scale: float = Field(
        default=1 / 255, description="Pixels (0..255) are multiplied by this first."
    )
    mean: list[float] = Field(default_factory=lambda: [0.0], description="Subtracted, per channel.")
    std: list[float] = Field(default_factory=lambda: [1.0], description="Divided by, per channel.")
    labels: bool = Field(default=False, description="Sub-folder index (sorted) is the label.")


class CallableData(Group):
    """Data from a Python function ``f(*, dims, offset, seed, **args) -> {name: array}``."""

    kind: Literal["callable"]
    function: Dotted = Field(description="package.module:function")
    args: Arguments = Field(default_factory=dict)
    seed: int = 0
    labels: str | None = Field(
        default=None, description="Name in the returned dict that is a label."
    )


Data = Annotated[GeneratorData | ArrayData | ImageData | CallableData, Field(discriminator="kind")]
