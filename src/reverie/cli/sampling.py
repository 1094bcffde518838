"""`reverie sample`: a model's samples, in few evaluations, as a picture or as numbers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reverie.cli.console import complain, err, examples

if TYPE_CHECKING:
    from reverie.model import Model
    from reverie.solve import Plan

__all__ = ["EXAMPLES", "sample"]

EXAMPLES = examples(
    "# sixteen digits in eight evaluations, classes in turn",
    "reverie sample digits -o out.png",
    "# forty sevens, guided, in six evaluations",
    'reverie sample digits 7 -n 40 --steps 6 --guide cfg:2 -o sevens.png',
    "# sixteen pictures of a text, guided as the model recommends",
    'reverie sample shapes "a red circle above a blue square" -o scene.png',
    "# a picture changed by a text, and a part of it painted anew",
    'reverie sample shapes "a blue square" --init scene.png --strength 0.7 -o changed.png',
    'reverie sample shapes "two stars" --init scene.png --mask mask.png -n 4 -o parts/',
    "# a thousand samples as numbers; stop with Ctrl-C, and the same command goes on",
    'reverie sample digits -n 1000 --nfe 10 --batch 100 -o samples.safetensors',
    "# samples 1000 to 1999 of the same seed, a picture each",
    "reverie sample digits -n 1000 --start 1000 -o more/",
    "# fifty thousand, in shards, on all GPUs; any number of processes, stopped and resumed at will, makes the same bits",
    "torchrun --nproc-per-node 8 -m reverie.cli sample digits -n 50000 --batch 500 -o fid/",
)  # fmt: skip

_HOW, _WHICH, _OUT, _FROM = "How they are made", "Which samples", "Where they go", "What they begin from"


def sample(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A house model (digits, shapes), or the path of a model's folder or .json file, or of a Stable Diffusion folder.",
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT]...",
            help='What to draw: texts, each an argument; or classes: "7", "0,1,2", "all". Sample i gets entry i mod their number. Default: all '
            "classes in turn, or nothing said.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Prompts from a text file, one a line, instead of arguments.", rich_help_panel=_WHICH
        ),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What guidance leads away from, in place of saying nothing. Needs a guide.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A picture to begin from, cut and scaled to fit.", rich_help_panel=_FROM),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="How far up the noise the picture is taken, in (0, 1]: at 1 nothing of it is left. Default: 0.6; 1 with --mask.",
            rich_help_panel=_FROM,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A picture, white where --init is to be painted anew; the rest stays as it is.",
            rich_help_panel=_FROM,
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The picture that steers a ControlNet pipeline.", rich_help_panel=_FROM),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Of the pictures of a pipeline's folder, in pixels: 768x512.",
            show_default="what its config says",
            rich_help_panel=_HOW,
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("-n", "--count", metavar="N", min=1, help="How many samples.", rich_help_panel=_WHICH)
    ] = 16,
    seed: Annotated[
        int, typer.Option(metavar="INT", help="Seed of all noise, from 0 to below 2^64.", rich_help_panel=_WHICH)
    ] = 0,
    start: Annotated[
        int,
        typer.Option(
            metavar="ID",
            min=0,
            help="Id of the first sample. Seed and id determine a sample, in any job.",
            rich_help_panel=_WHICH,
        ),
    ] = 0,
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="See 'reverie solvers'.",
            show_default="the model's own, else dpmpp-2m",
            rich_help_panel=_HOW,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Steps of the solver, from 1.", show_default="8, without --nfe", rich_help_panel=_HOW
        ),
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Instead of --steps: the most calls of the model a sample may take.", rich_help_panel=_HOW
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where the steps lie: logsnr, karras:RHO, time, quadratic, beta, trailing, leading, ... Default: the model's, else the solver's.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How it ends: denoise (the last step goes to sigma = 0), sigma_min (some noise stays), zero (sigma = 0 as an extra step).",
            show_default="the model's own, else denoise",
            rich_help_panel=_HOW,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="An option of the solver, e.g. eta=0.5. Repeatable.", rich_help_panel=_HOW
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A saved plan (reverie plan ... -o), instead of the six above.", rich_help_panel=_HOW
        ),
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            metavar="cfg:SCALE[:LO,HI][:rescale=PHI]",
            help="Classifier-free guidance: scale (1: none; two forwards a call otherwise), the times between which it acts, and the "
            "share in 0 to 1 by which the contrast is pulled back; or none.",
            show_default="the model's own, else none",
            rich_help_panel=_HOW,
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Rows of each network call: memory and speed, and part of what fixes the bits.",
            rich_help_panel=_HOW,
        ),
    ] = 16,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar="REVERIE_DEVICE",
            help="cpu, cuda, cuda:1, ...; auto: cuda if there is one, else cpu. Under torchrun each process takes a GPU of its own.",
            rich_help_panel=_HOW,
        ),
    ] = "auto",
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="PATH",
            help="NAME.png: a contact sheet, settings inside. NAME.safetensors, NAME.npy: raw numbers, all held in memory. FOLDER/: any number "
            "of samples in bounded memory, see --format; a folder can be resumed, extended (raise -n), and shared by processes (torchrun).",
            rich_help_panel=_OUT,
        ),
    ] = "out.png",
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="Of a FOLDER/. png: a picture a sample, named by id. safetensors: shards of raw numbers and job.json, read by "
            "rv.data.samples. npz: shards of uint8 pictures, and of them samples.npz (arr_0: N, H, W, C), as FID evaluators read it. Default: what "
            "the folder holds; in a new one png up to 1000 samples, safetensors above or if samples are no pictures.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    shard: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Samples a shard (at most 128 MiB each). Default: about 1000, fewer for many processes.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    columns: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of the contact sheet, from 1. Default: a tidy number.", rich_help_panel=_OUT),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Screen pixels a pixel, from 1. Default: enough to be seen.", rich_help_panel=_OUT
        ),
    ] = None,
    captions: Annotated[bool, typer.Option(help="Write each sample's class below it.", rich_help_panel=_OUT)] = True,
) -> None:
    """Sample a trained model in few evaluations.

    An interrupted job keeps what it has finished: the same command goes on from there, and ends with the same bits.
    """
    from reverie.base import ArgumentError
    from reverie.cli import parse
    from reverie.cli.begin import begun
    from reverie.cli.filling import fill_file, fill_folder, record, say, stacked
    from reverie.cli.output import Output
    from reverie.cli.partial import Partial, digest
    from reverie.hub import load
    from reverie.hub.jobs import Source, share_of

    target, share = Output(output, columns, scale, captions), share_of()
    if not target.folder:
        for name, value in (("--format", form), ("--shard", shard)):
            if value is not None:
                raise ArgumentError(f"{name} is for folders, and {output!r} is a file; write -o FOLDER/")
        if share[1] > 1:
            raise ArgumentError(f"{share[1]} processes cannot share the file {output!r}; write -o FOLDER/")
    settings = {"solver": solver, "steps": steps, "nfe": nfe, "grid": grid, "end": end, "option": option or None}
    given = [f"--{name}" for name, value in settings.items() if value is not None]
    if plan is not None and given:
        raise ArgumentError(f"a saved plan has its own solver, steps and grid; leave out {', '.join(given)}")
    if guide not in (None, "none"):
        parse.guide(guide)  # before anything is loaded
    more = parse.options(option or [])
    asked = {} if size is None else {"size": parse.size(size)}
    device = parse.device(device)
    base = load(model, device, **asked)
    guide = parse.own_guide(base, guide)
    guidance = None if guide is None else parse.guide(guide)
    told = parse.told(prompt, prompts)
    base = _negative(base, negative, guidance)
    begin = begun(base, init, strength, mask, control)
    for text in begin.notes:
        complain(text, "note")
    table = _plan(base, plan, solver, steps, nfe, grid, end, more, begin.span)
    said: dict[str, Any] = {"guide": guide, "prompt": told, **begin.said}
    said |= {} if negative is None else {"negative": negative}
    said |= {} if size is None else {"size": size}
    pool = parse.conditions_in_turn(base, told, begin.embeds)
    source = Source(
        base, table, guidance, pool, seed, batch, said, begin.init, begin.inputs, begin.hooks, begin.finish
    )  # fmt: skip
    if target.folder:
        fill_folder(target, form, source, said, n, start, shard, share)
        return
    ids = list(range(start, start + n))
    names = parse.names(base, told, source.told(ids), ids)
    if base.codec is None:
        target.check(base.shape)
    said |= {"seed": seed, "batch": batch, "device": device}
    kept = Partial(target.partial, digest(base, table, said))
    if kept.note:
        complain(kept.note, "note")
    began = time.monotonic()
    had = sum(i in kept.samples for i in ids)
    if had:
        err().print(f"resumed: {had} of {n} samples were done")
    fill_file(source, kept, ids)
    x = stacked(kept.samples, ids)
    target.write(x, ids, names, max(map(len, pool.values()), default=1), record(base, table, said, ids, names))
    kept.remove()
    say(output, n, table, source.guided, time.monotonic() - began)


def _negative(model: Model, text: str | None, guide: Any) -> Model:
    """The model whose guidance leads away from a text."""
    from reverie.base import ArgumentError

    if text is None:
        return model
    if model.embed is None or model.card.get("classes") is not None:
        raise ArgumentError(f"{model.name} reads no texts; leave out --negative")
    if guide is None:
        raise ArgumentError("--negative is what guidance leads away from, and there is no guide; give --guide cfg:5")
    return model.with_null(model.embed(text))


def _plan(
    model: Model,
    file: str | None,
    solver: str | None,
    steps: int | None,
    nfe: int | None,
    grid: str | None,
    end: str | None,
    more: dict[str, Any],
    span: tuple[float, float] = (1.0, 0.0),
) -> Plan:
    from reverie.base import ArgumentError
    from reverie.solve import Plan, plan_for
    from reverie.solve.solver import takes_steps

    if file is None:
        if steps is not None and nfe is not None:
            raise ArgumentError(f"give --steps or --nfe, not both (got {steps} and {nfe})")
        steps = 8 if steps is None and nfe is None and takes_steps(solver) else steps
        return plan_for(model, solver, steps=steps, nfe=nfe, grid=grid, end=end, span=span, **more)
    if span[0] != 1:
        raise ArgumentError(f"a saved plan begins where it was compiled; leave out {file!r}, or give --strength 1")
    table = Plan.load(file)
    if table.process != model.process:
        raise ArgumentError(
            f"{file!r} was made for {table.process}, {model.name} has {model.process}; make it with --process MODEL"
        )
    return table
