"""The command line: `bertvariants COMMAND`, one thin function a command, flags typed by tyro."""

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

PACKAGE = Path(__file__).parent
USAGE = """bertvariants COMMAND [flags]      (the same as python -m bertvariants_jax COMMAND)

{commands}

bertvariants COMMAND --help tells a command's flags, with an example. --traceback shows where an error came from.
"""


class Failure(Exception):
    """A command that ran and found against what it was asked to check."""


class Misuse(Exception):
    """Arguments that do not go together."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; exit status 0, 1 for a failure (one clear line), 2 for bad usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments
    arguments = [a for a in arguments if a != "--traceback"]
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(
            f"  {name:{width}}  {inspect.getdoc(command).splitlines()[0]}" for name, command in COMMANDS.items())))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"bertvariants: no command {name!r}{hint} (commands: {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    formatted, warnings.formatwarning = warnings.formatwarning, one_line(warnings.formatwarning)
    try:
        if name == "train":
            train(rest)
        else:
            tyro.cli(COMMANDS[name], prog=f"bertvariants {name}", description=inspect.getdoc(COMMANDS[name]), args=rest)
    except (ValueError, TypeError, OSError, Failure, Misuse, ImportError) as error:
        if traceback:
            raise
        print(f"bertvariants {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, Misuse) else 1
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        warnings.formatwarning = formatted
    return 0


def one_line(formatted: Callable[..., str]) -> Callable[..., str]:
    """Warnings as others print them, but ours, which are about data, as one line."""
    def form(message, category, filename, lineno, line=None) -> str:
        ours = category is UserWarning and str(PACKAGE) in filename
        return f"{message}\n" if ours else formatted(message, category, filename, lineno, line)

    return form


def prepare_jax() -> None:
    """Compiled programs are kept between commands, so that the second start is fast."""
    import jax

    from bertvariants_jax.recipe import cache_folder

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def variants(name: Annotated[str, tyro.conf.Positional] = "") -> None:
    """The family: sizes and exact parameters; one name: its parameter tree.

    Example: bertvariants variants bert-tiny
    """
    import jax
    from rich.console import Console
    from rich.table import Table

    from bertvariants_jax import names
    from bertvariants_jax.models import VARIANTS, find_size
    from bertvariants_jax.models.variant import count
    from bertvariants_jax.training.flops import count_flops
    from bertvariants_jax.training.paths import layer_axes
    from bertvariants_jax.training.sharding import spec

    console = Console(width=None if sys.stdout.isatty() else 140)
    if not name:
        table = Table("variant", "size", "layers", "hidden", "parameters", "GFLOP / 128 tokens", box=None)
        for variant in VARIANTS.values():
            for size, config in variant.sizes.items():
                network = variant.network(config)
                ids = {"input_ids": jax.ShapeDtypeStruct((1, 128), "int32")}
                flops = count_flops(lambda p, b, network=network: network.encode(p, b).last_hidden_state,
                                    network.shapes(), ids)
                table.add_row(variant.name, size, str(config.num_hidden_layers), str(config.hidden_size),
                              f"{count(network.shapes()):,}", f"{flops / 1e9:.1f}")
        console.print(table)
        console.print("\nParameters and forward FLOPs (a multiply-add is 2) of the encoder, without pooler and heads.")
        return
    variant, config = find_size(name)
    network = variant.network(config, tuple(variant.heads))
    table = Table("parameter", "shape", "count", "cut by --mesh.fsdp 2 --mesh.model 2", box=None)
    axes = layer_axes(network.shapes())
    for path, leaf in names.flatten(network.shapes()).items():
        cut = spec(path, leaf.shape, axes.get(path, 0), {"data": 1, "fsdp": 2, "model": 2})
        table.add_row(path, str(leaf.shape), f"{count(leaf):,}", str(tuple(cut)) if any(cut) else "")
    console.print(table)
    console.print(f"\n{variant.name}: {variant.summary}. Heads: {', '.join(variant.heads)}.")
    for head in ((), *((h,) for h in variant.heads)):
        shapes = variant.network(config, head).shapes()
        console.print(f"  {head[0] if head else 'encoder alone':14} {count(shapes):>13,} parameters")


def train(arguments: list[str]) -> None:
    """Pre-train or fine-tune as a recipe file says; goes on where the run in --out stopped.

    Example: bertvariants train experiments/glue.py --task sst2 --start FOLDER --epochs 2 --out runs/sst2

    --seeds 5 does a fine-tuning run five times and tells the median. A run goes on only with the data, the classes and
    the tokenizer that it began with; --data-changed takes other data.
    """
    if not arguments or arguments[0].startswith("-"):
        print(f"bertvariants train RECIPE.py --out RUN [flags]\n\n{inspect.getdoc(train)}\n\n"
              "bertvariants train RECIPE.py --help tells a recipe's flags.")
        raise SystemExit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    from bertvariants_jax.recipe import Recipe, Settings, run, run_seeds

    path = Path(arguments[0])
    module = load_recipe(path)
    prog, flags = f"bertvariants train {path}", arguments[1:]
    options = [(p.name, p.annotation, dataclasses.field(default=tyro.MISSING if p.default is p.empty else p.default))
               for p in inspect.signature(module.recipe, eval_str=True).parameters.values()]
    knobs, _ = tyro.cli(dataclasses.make_dataclass("Knobs", options), args=[f for f in flags if f not in ("-h", "--help")],
                        return_unknown_args=True, add_help=False, prog=prog)
    knobs = {name: getattr(knobs, name) for name, *_ in options}
    recipe = module.recipe(**knobs)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{path}: recipe() returned {type(recipe).__name__}, expected a Recipe")
    # Each field's type is narrowed to what the recipe holds there, so that the flags are those of its own task.
    fields = [(f.name, Annotated[Settings, tyro.conf.arg(name="")] if f.name == "settings" else type(held),
               dataclasses.field(default=held))
              for f in dataclasses.fields(Recipe) for held in (getattr(recipe, f.name),)]
    command = dataclasses.make_dataclass("Train", [
        ("out", Path), *((f"of_recipe_{name}", Annotated[kind, tyro.conf.arg(name=name)],      # one may be called "task"
                          dataclasses.field(default=knobs[name])) for name, kind, _ in options),
        ("seeds", int, dataclasses.field(default=1)), ("data_changed", bool, dataclasses.field(default=False)),
        ("distributed", bool, dataclasses.field(default=False)), *fields])
    chosen = tyro.cli(command, args=flags, prog=prog, description=inspect.getdoc(module))
    if chosen.seeds < 1:
        raise Misuse(f"--seeds must be at least 1, got {chosen.seeds}")
    import jax

    if chosen.distributed:
        jax.distributed.initialize()
    prepare_jax()
    whole = Recipe(**{f.name: getattr(chosen, f.name) for f in dataclasses.fields(Recipe)})
    several = chosen.seeds > 1
    found = run_seeds(whole, chosen.out, chosen.seeds, chosen.data_changed) if several else None
    outcome = None if several else run(whole, chosen.out, chosen.data_changed)
    if jax.process_index() > 0:  # one host tells it
        return
    if several:
        show_scores([(str(chosen.out), found)])
        print(strict_json({"out": str(chosen.out), "seeds": chosen.seeds, **{
            key: found[key] for key in ("metrics", "least", "most", "deviation", "failed")}}, "the metrics"))
        return
    shown = {k: v for k, v in outcome.metrics.items() if k.startswith(("eval/", "best/")) or k in ("loss", "tokens_per_second")}
    print(strict_json({"step": outcome.step, "stopped_by": outcome.stopped_by, "out": str(chosen.out), **shown}, "the metrics"))


def show_scores(scored: list[tuple[str, dict[str, Any]]]) -> None:
    """A table of runs' scores.json, with their baselines and what the seeds differ by."""
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "metric", "score", "seeds: least", "most", "deviation", "failed", "baseline", box=None)
    for name, found in scored:
        runs = found.get("runs")
        for metric, value in found["metrics"].items():
            spread = [f"{found[key][metric]:.4f}" for key in ("least", "most", "deviation")] if runs else [""] * 3
            table.add_row(name, metric, f"{value:.4f}", *spread, f"{found['failed']} of {len(runs)}" if runs else "",
                          f"{found['baseline'][metric]:.4f}" if metric in found["baseline"] else "")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def load_recipe(path: Path) -> Any:
    """A recipe file as a module. Raises FileNotFoundError, or ValueError where it has no recipe()."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "recipe", None)):
        raise ValueError(f"{path} has no function recipe()")
    return module


def evaluate(folder: Annotated[str, tyro.conf.Positional] = "", task: str = tyro.MISSING, data: str = "",
             split: Literal["train", "validation", "test"] = "validation", predictions: Path | None = None,
             output: Path | None = None, labels: tuple[str, ...] = (), batch_size: int | None = None,
             max_length: int | None = None) -> None:
    """Metrics of a model folder, or of a prediction file, on a task, as a table and a line of JSON.

    Example: bertvariants evaluate runs/sst2/model --task sst2 --data glue/SST-2
    Example: bertvariants evaluate runs/mine/model --task runs/mine --data tsv:other.tsv
    Example: bertvariants evaluate --predictions RTE.tsv --task rte --data glue

    Args:
        folder: model folder or hub id.
        task: name of a task (sst2), or the folder of a training run, whose own task is taken.
        data: folder of the task's files, or a file or data address of the split alone; without it TFDS, or what the
            run has.
        predictions: file in the task's official format, scored without a model.
        output: folder where the model's predictions are written in that format.
        labels: what the model's classes are, in the order of their ids, where its config.json does not say.
        batch_size: 32 without it. max_length: tokens of a row; the task's own number without it.
    """
    if bool(folder) == (predictions is not None):
        raise Misuse("give a model folder, or --predictions FILE, and not both")
    of_model = {"--output": output, "--labels": labels, "--batch-size": batch_size, "--max-length": max_length}
    if predictions is not None and (idle := [name for name, value in of_model.items() if value not in (None, ())]):
        raise Misuse(f"{idle[0]} is for a model, which --predictions does without")
    for name, value in (("--batch-size", batch_size), ("--max-length", max_length)):
        if value is not None and value < 1:
            raise Misuse(f"{name} must be at least 1, got {value}")
    if predictions is not None and not predictions.is_file():
        raise FileNotFoundError(f"there is no file {predictions}")
    prepare_jax()
    from rich.console import Console
    from rich.table import Table

    from bertvariants_jax import recipe
    from bertvariants_jax.hf.checkpoint import read_config
    from bertvariants_jax.tasks.task import Task

    options = {} if max_length is None else {"max_length": max_length}
    if (Path(task) / "config.json").is_file():
        chosen = recipe.task_of_run(task)
        chosen = recipe.with_data(chosen, data, split) if data else chosen
        if predictions is not None and (Path(task) / "model" / "config.json").is_file():
            chosen = chosen.answered_by(read_config(Path(task) / "model")[1].id2label)
    else:
        chosen = recipe.task_on(task, data, split, **options)
    if predictions is not None:
        metrics = chosen.score_file(predictions, split)
    else:
        if labels and not {"classify", "tag"} & set(chosen.heads):
            raise Misuse("--labels says what classes are, which this task does not have")
        if output is not None and type(chosen).write is Task.write:
            raise Misuse("--output is for predictions, which this task does not write")
        metrics = recipe.evaluate(folder, chosen, split, batch_size or 32, output, labels, max_length)
    table = Table("metric", "value", box=None)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    line = strict_json(metrics, "the metrics")
    Console().print(table)
    print(line)


def strict_json(value: Any, what: str) -> str:
    """A line of JSON. Raises ValueError for a number that JSON does not have (nan, inf)."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=lambda x: x.tolist())
    except ValueError:
        raise ValueError(f"{what} hold a number that is not finite, which JSON cannot say: {value!r:.200}") from None


def predict(folder: Annotated[str, tyro.conf.Positional], texts: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
            task: str = "", input: Path | None = None, output: Path | None = None, batch_size: int = 32,
            options: str = "{}") -> None:
    """A pipeline over texts, or over the lines of a file; one JSON line each.

    Example: bertvariants predict runs/sst2/model "a charming journey" "bleak and desperate"

    Args:
        folder: model folder or hub id.
        task: pipeline (fill-mask, text-classification, token-classification, question-answering, multiple-choice,
            replaced-tokens, embed); without it, by the model's heads.
        input: file of one text a line, or for .jsonl one JSON value a line, such as {"question": ..., "context": ...} or
            {"context": ..., "choices": [...]}. output: where to write; standard output without it.
        options: of the pipeline, as JSON: '{"aggregation_strategy": "simple"}'.
    """
    if bool(texts) == (input is not None):
        raise Misuse("give texts, or --input FILE, and not both")
    if batch_size < 1:
        raise Misuse(f"--batch-size must be at least 1, got {batch_size}")
    if input is not None and not input.exists():
        raise FileNotFoundError(f"there is no file {input}")
    if input is not None and output is not None and output.exists() and output.samefile(input):
        raise Misuse(f"--output {output} is the input")
    chosen = json_of(options, "--options")
    if not isinstance(chosen, dict):
        raise Misuse(f"--options should be a JSON object, such as {{\"top_k\": 3}}, not {options}")
    prepare_jax()
    from bertvariants_jax.hf.checkpoint import load
    from bertvariants_jax.pipelines import PIPELINES, pipeline, task_of

    head = PIPELINES[task].head if task in PIPELINES else ""
    checkpoint = load(folder, heads=(head,) if head else (), fresh=False)
    for guess in checkpoint.report.guesses:
        print(f"{folder}: {guess}", file=sys.stderr)
    run = pipeline(task or task_of(checkpoint), checkpoint, batch_size=batch_size)
    run = run.having(chosen) if chosen else run
    # A file is whole or it is what it was before; what came out until a failure stands beside it.
    part = output.with_name(output.name + ".part") if output is not None and (output.is_file() or not output.exists()) else output
    with contextlib.ExitStack() as files:
        sink = sys.stdout if part is None else files.enter_context(open(part, "w", encoding="utf-8"))
        for result in run(value for value in (texts if input is None else inputs_of(input))):
            line = strict_json(result, "the results")
            sink.write(line.encode("utf-8", "backslashreplace").decode() + "\n")      # JSON's own escape of a lone surrogate
    if part != output:
        part.replace(output)
    if input is not None:
        print(f"programs compiled: {len(run.shapes)}, of at most {run.most_shapes}", file=sys.stderr)


def inputs_of(path: Path) -> Iterator[Any]:
    """The lines of a file, or of a .jsonl the values. Raises ValueError, naming the line, for what is neither."""
    with open(path, encoding="utf-8-sig") as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                if path.suffix != ".jsonl":
                    yield line.rstrip("\n")
                elif line.strip():
                    yield json_of(line, f"{path}, line {number}")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, behind line {number}: not UTF-8 ({error})") from None


def json_of(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not a whole JSON value ({error.msg}, column {error.colno})") from None


def convert(source: Annotated[str, tyro.conf.Positional], dest: Annotated[Path, tyro.conf.Positional],
            revision: str = "", check: bool = False, to: Literal["folder", "stablehlo", "onnx"] = "folder",
            length: int | None = None, tokenizer: str = "",
            tokenizer_ids: Literal["", "hf", "original"] = "") -> None:
    """Load a folder or hub id of any kind that we read and save it as today's HF folder; says what was used.

    Example: bertvariants convert google-bert/bert-base-uncased bert/ --check

    Args:
        check: compare the hidden states with `transformers`, which must be installed; of a program, all its outputs with
            the checkpoint's.
        to: "stablehlo" writes a program for CPU, GPU and TPU that runs without this package (its README.md says how);
            "onnx" one for ONNX runtimes (needs pip install 'bertvariants_jax[onnx]').
        length: tokens of a row of that program, 128 without it; the number of rows is free.
        tokenizer: another folder whose tokenizer is taken; "none" for the weights alone.
        tokenizer_ids: whose ids it gives, those of transformers or those of the paper's own code and model (the default of
            DeBERTa v2 and v3, whose class in transformers leaves characters out).
    """
    if length is not None and to == "folder":
        raise Misuse("--length is of a program: give --to stablehlo or --to onnx")
    if length is not None and length < 1:
        raise Misuse(f"--length must be at least 1, got {length}")
    prepare_jax()
    from bertvariants_jax.hf.checkpoint import load, save

    checkpoint = load(source, revision=revision or None, tokenizer=tokenizer != "none" and (tokenizer or True),
                      tokenizer_ids=tokenizer_ids or None)
    print(checkpoint.report)
    if to != "folder":
        from bertvariants_jax.export import difference as program_difference
        from bertvariants_jax.export import to_onnx, to_stablehlo

        print(f"saved {(to_onnx if to == 'onnx' else to_stablehlo)(checkpoint, dest, length or 128)}")
        worst = program_difference(checkpoint, dest) if check else 0.0
        if check:
            print(f"largest difference of the program: {worst:.1e}")
        if worst > 1e-4:
            raise Failure(f"{dest} differs from {source} by {worst:.1e}")
        return
    save(checkpoint, dest)
    print(f"saved {dest}")
    if check:
        from bertvariants_jax.hf.peer import difference

        worst = difference(checkpoint, dest)
        print(f"largest difference to transformers: {worst:.1e}")
        if worst > 1e-4:
            raise Failure(f"{dest} differs from transformers by {worst:.1e}")


def report(runs: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path = Path("report.html")) -> None:
    """Curves and tables of one or several runs as one HTML file that opens offline; scores and benchmarks' averages.

    Example: bertvariants report runs/a runs/b --out report.html
    """
    from bertvariants_jax.training.report import write_report

    if not runs:
        raise Misuse("name one run or several")
    curves = [inner for run in runs for inner in ([run] if (run / "metrics.jsonl").is_file() else
                                                  sorted(run.glob("seed-*/"))) or [run]]
    print(write_report(curves, out))
    if any((run / "scores.json").is_file() for run in runs):
        from bertvariants_jax.recipe import averages, read_scores

        scored = [(run, read_scores(run)) for run in runs if (run / "scores.json").is_file()]
        show_scores([(str(run), found) for run, found in scored])
        for line in averages(scored):
            print(line)


COMMANDS = {"variants": variants, "train": train, "evaluate": evaluate, "predict": predict, "convert": convert,
            "report": report}

