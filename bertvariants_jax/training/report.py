"""report.html of one or several runs: curves and tables in one file that opens offline, and the curves as PNG."""

import base64
import datetime
import html
import io
import json
import math
import pathlib
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from bertvariants_jax.files import write_file
from bertvariants_jax.training.checkpoints import flat, run_config
from bertvariants_jax.training.log import read_metrics

COLOURS = ["#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#0891b2", "#ca8a04", "#475569"]
INK, FAINT = "#1e293b", "#e2e8f0"
POINTS = 80  # a smoothed curve keeps about this many independent points


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder tells: its name, config, and the lines of metrics.jsonl."""

    name: str
    config: dict
    lines: list[dict]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric."""
        pairs = [(line["step"], line[key]) for line in self.lines if isinstance(line.get(key), (int, float))]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def names(self) -> list[str]:
        """All metrics, in order of appearance."""
        return list(dict.fromkeys(key for line in self.lines for key in line if key not in ("step", "time")))

    def last(self) -> dict[str, float]:
        """The last value of each metric."""
        values: dict[str, float] = {}
        for line in self.lines:
            values.update({key: value for key, value in line.items() if value is not None})
        return values


def read_run(folder) -> RunRecord:
    """Read RUN; FileNotFoundError where it has no metrics.jsonl."""
    folder = pathlib.Path(folder)
    if not (folder / "metrics.jsonl").exists():
        raise FileNotFoundError(f"{folder} is not a run: it has no metrics.jsonl")
    try:
        config = run_config(folder)
    except FileNotFoundError:
        config = {}
    return RunRecord(folder.resolve().name, config, read_metrics(folder / "metrics.jsonl"))


def write_report(folders, path) -> pathlib.Path:
    """Write the report of the runs in `folders` to `path` (HTML) and its curves beside it (.png) -> path."""
    path, runs = pathlib.Path(path), [read_run(folder) for folder in folders]
    picture = curves(runs)
    write_file(path.with_suffix(".png"), picture)
    write_file(path, page(runs, picture))
    return path


# ---- curves ----


TITLES = {"learning_rate": "Learning rate", "tokens_per_second": "Tokens per second", "mfu": "MFU",
          "grad_norm": "Gradient norm"}


def panels(runs: list[RunRecord]) -> list[tuple[str, list[str]]]:
    """(title, metrics) of each picture: alike metrics together for one run, one picture a metric for several."""
    names = list(dict.fromkeys(name for run in runs for name in run.names()))
    terms = [name for name in names if name.endswith("/loss") and not name.startswith("eval/")]
    losses = [name for name in ("loss", "eval/loss") if name in names] + (terms if len(terms) > 1 else [])
    accuracy = [name for name in names if name.endswith("accuracy")]
    scores = [name for name in names if name.startswith("eval/") and name not in (*accuracy, *losses)]
    single = [(TITLES[name], [name]) for name in TITLES if name in names]
    if len(runs) > 1:
        return [(name, [name]) for name in (*losses, *accuracy, *scores)] + single
    title = scores[0] if len(scores) == 1 else "Evaluation"
    return [(title, found) for title, found in (("Loss", losses), ("Accuracy", accuracy), (title, scores)) if found
            ] + single


def curves(runs: list[RunRecord]) -> bytes:
    """The pictures of all runs on one sheet, PNG."""
    shown = panels(runs)
    columns = 2 if len(shown) > 1 else 1
    rows = max(math.ceil(len(shown) / columns), 1)
    figure = Figure(figsize=(6.4 * columns, 3.5 * rows + (0.4 if len(runs) > 1 else 0)), dpi=150, facecolor="white",
                    layout="constrained")
    figure.get_layout_engine().set(w_pad=0.14, h_pad=0.12)
    for index, (title, metrics) in enumerate(shown):
        draw(figure.add_subplot(rows, columns, index + 1), title, metrics, runs)
    if len(runs) > 1:
        figure.legend([Line2D([], [], color=colour_of(i), linewidth=2.5) for i in range(len(runs))],
                      [run.name for run in runs], loc="outside upper left", ncols=4, frameon=False, fontsize=10,
                      labelcolor=INK)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def draw(axes, title: str, metrics: list[str], runs: list[RunRecord]) -> None:
    """One picture: colours tell the runs apart, or the metrics where there is one run."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel("step", fontsize=9, color="#475569")
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#94a3b8")
    axes.tick_params(colors="#475569", labelsize=9, length=0)
    for i, run in enumerate(runs):
        for j, metric in enumerate(metrics):
            curve(axes, *run.series(metric), metric, colour_of(i if len(runs) > 1 else j))
    if any(metric.endswith(("accuracy", "mfu")) for metric in metrics):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    elif title == TITLES["learning_rate"]:
        axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        axes.yaxis.get_offset_text().set(color="#475569", fontsize=9)
    elif title == TITLES["tokens_per_second"]:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if metrics[0] in ("tokens_per_second", "mfu", "learning_rate"):
        axes.set_ylim(bottom=0)
    elif any(metric.endswith(("loss", "grad_norm")) for metric in metrics):
        focus(axes)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if len(metrics) > 1:
        axes.legend(fontsize=8.5, frameon=False, labelcolor=INK, handlelength=1.6)
    axes.margins(x=0.02)


def colour_of(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def curve(axes, steps: list[int], values: list[float], metric: str, colour: str) -> None:
    """One metric: its values faint, its moving average bold; evaluations as dots."""
    scored = metric.startswith("eval/")
    bold = values if scored or metric == "learning_rate" else smoothed(values)
    if bold is not values:
        axes.plot(steps, values, color=colour, alpha=0.22, linewidth=1)
    axes.plot(steps, bold, color=colour, linewidth=2, label=metric, marker="o" if scored or len(steps) < 3 else None,
              markersize=4, solid_capstyle="round")


def focus(axes) -> None:
    """Keep a few wild values from flattening all else: the view ends a little above the 98th percentile."""
    values = sorted(value for line in axes.get_lines() for value in line.get_ydata())
    if len(values) > 20:
        low, high = values[0], values[int(0.98 * (len(values) - 1))]
        if high > low:
            room = 0.08 * (high - low)
            axes.set_ylim(low - room, min(high + 3 * room, values[-1] + room))


def smoothed(values: list[float]) -> list[float]:
    """Exponential moving average over about 1/POINTS of the curve, without the lag of a zero start."""
    window = len(values) / POINTS
    if window < 2:
        return values
    keep, average, weight, out = 1 - 1 / window, 0.0, 0.0, []
    for value in values:
        average, weight = keep * average + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(average / weight)
    return out


# ---- page ----

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1e293b; background: #f8fafc;
       margin: 0; }
main { max-width: 1100px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 36px 0 10px; }
p.note { color: #64748b; margin: 0 0 24px; }
section.card { background: white; border: 1px solid #e2e8f0; border-radius: 12px; padding: 18px; overflow-x: auto; }
img { width: 100%; display: block; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 24px; }
.tile { background: white; border: 1px solid #e2e8f0; border-radius: 12px; padding: 12px 18px; min-width: 110px; }
.tile b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
.tile span { color: #64748b; font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid #f1f5f9; vertical-align: top; }
th { color: #475569; font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.name { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 13px; color: #334155; }
tr.differs td { background: #fffbeb; }
"""


def page(runs: list[RunRecord], picture: bytes) -> str:
    """The whole HTML file."""
    names = ", ".join(run.name for run in runs)
    image = base64.b64encode(picture).decode()
    tiles = "".join(f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
                    for name, value in headline(runs[0]) if len(runs) == 1)
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{html.escape(names)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n'
            f'<h1>{html.escape(names)}</h1>\n'
            f'<p class="note">{html.escape(written(runs))}</p>\n<div class="tiles">{tiles}</div>\n'
            f'<section class="card"><img alt="curves" src="data:image/png;base64,{image}"></section>\n'
            f'<h2>Final metrics</h2>\n<section class="card">{metrics_table(runs)}</section>\n'
            f'<h2>Config</h2>\n<section class="card">{config_table(runs)}</section>\n</main>\n</body>\n</html>\n')


def written(runs: list[RunRecord]) -> str:
    """When the runs last said something."""
    times = [run.lines[-1]["time"] for run in runs if run.lines]
    return datetime.datetime.fromtimestamp(max(times)).strftime("%d %B %Y, %H:%M") if times else "nothing logged yet"


def headline(run: RunRecord) -> list[tuple[str, str]]:
    """The few numbers one looks for first."""
    last = run.last()
    shown = [("steps", f"{last.get('step', 0):,}")]
    shown += [(key, number(last[key])) for key in last if key.startswith("eval/")][:3]
    shown += [(key, number(last[key])) for key in ("loss", *(k for k in last if k.endswith("accuracy"))) if key in last
              and not key.startswith("eval/")][:3]
    shown += [("tokens/s", number(last["tokens_per_second"]))] if "tokens_per_second" in last else []
    shown += [("MFU", f"{100 * last['mfu']:.1f}%")] if "mfu" in last else []
    return shown


def metrics_table(runs: list[RunRecord]) -> str:
    last = [run.last() for run in runs]
    names = ["step", *dict.fromkeys(name for run in runs for name in run.names())]
    return table(["metric", *(run.name for run in runs)],
                 [(False, [name, *(number(values[name]) if name in values else "" for values in last)])
                  for name in names])


def config_table(runs: list[RunRecord]) -> str:
    configs = [{name: value if isinstance(value, str) else json.dumps(value)
                for name, value in flat(run.config) if name} for run in runs]
    names = list(dict.fromkeys(name for config in configs for name in config))
    values = {name: [config.get(name, "") for config in configs] for name in names}
    return table(["field", *(run.name for run in runs)],
                 [(len(set(found)) > 1, [name, *found]) for name, found in values.items()], numbers=False)


def table(head: list[str], rows: list[tuple[bool, list[str]]], numbers: bool = True) -> str:
    """An HTML table; rows are (marked, cells)."""
    kind = ' class="number"' if numbers else ""
    top = f"<th>{html.escape(head[0])}</th>" + "".join(f"<th{kind}>{html.escape(cell)}</th>" for cell in head[1:])
    body = "".join(
        f'<tr{" class=differs" if marked else ""}><td class="name">{html.escape(cells[0])}</td>'
        + "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell in cells[1:]) + "</tr>\n" for marked, cells in rows)
    return f"<table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table>"


def number(value: float) -> str:
    """A number for reading: four digits, thousands separated."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
