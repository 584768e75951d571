"""Does Retro-Search make episodes shorter, and what do students of them learn?

    python -m search_env.benchmarks.studies.retro_search run --seeds 0 1 2 3 4
    python -m search_env.benchmarks.studies.retro_search report --output
    benchmarks/results/retro_search.md

``run`` does what is not there yet; ``report`` writes the page. Wasteful episodes are those of an
oracle that searches more than it needs (:mod:`search_env.benchmarks.players.wasteful`), revised by
the oracle's own continuation; others by a student of them (weak to strong); the student's right
episodes by itself. Students of revised episodes are compared with students of the same ones as they
were, equally many in equally many updates. Chains of thought without searches are revised as in the
paper. Settings are in ``retro_search_runs.py``; scores are of greedy episodes on test questions of
a world that nobody trained on.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from search_env.benchmarks.reports.measurement_page import heading, interval, publish, table
from search_env.benchmarks.studies.retro_search_runs import PARTS, run_part
from search_env.metrics.statistics import Interval, bootstrap_crossed

MARGIN = 0.08  # of exact match, within which a student is no worse
NEAR = 0.05  # share of the hops within which searches have come down to them

CLAIMS = """
1. The oracle's continuation brings the searches of wasteful episodes to within 5 % of the hops, and
   every answer stays right.
2. Students of revised episodes search less and write fewer tokens than students of as many
   original ones (95 % intervals below 0), at equal or better exact match (interval above -.08).
3. Weak to strong: a student of wasteful episodes takes a quarter or more of the superfluous
   searches out of the oracle's, every answer stays right, and claim 2 holds for its students.
4. Self: the same for the student's own right episodes.
5. Chains of thought have fewer steps after revision, all of them stay right, and their students
   think in fewer steps at equal or better exact match (as in 2).
"""
"""Written before the runs; settings were tried in small with seed 100."""

REVISIONS = ("oracle", "weak-to-strong", "self", "chains")
PAIRS = {
    "oracle": ("original", "revised"),
    "weak-to-strong": ("weak-to-strong, original", "weak-to-strong, revised"),
    "self": ("self, original", "self, revised"),
    "chains": ("chains, original", "chains, revised"),
}
"""Students of original and of revised traces, by what revised them."""

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Records of each part, seed by seed."""


def read_results(folder: Path) -> Results:
    """Return the records of the parts that are there."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PARTS}
    for file in sorted(folder.glob("*/*.json")):
        record = json.loads(file.read_text())
        if isinstance(record, dict) and record.get("part") in found:
            found[record["part"]].append(record)
    return {
        name: sorted(records, key=lambda record: int(record["seed"]))
        for name, records in found.items()
        if records
    }


def ratio(record: Mapping[str, Any], name: str, side: int, of: str = "episodes") -> float:
    """Return a sum of a record, before (0) or after (1), per episode or per hop."""
    return float(record[name][side] / max(1, record[of]))


def revisions_table(results: Results) -> str:
    """Return what revision made of the traces."""
    lines = []
    for name in REVISIONS:
        records = results.get(name, ())
        if not records:
            continue
        cells = [name, str(len(records)), interval([r["episodes"] for r in records], 0)]
        cells.append(interval([r["revised"] / r["episodes"] for r in records], 2))
        hops = [r["hops"] / r["episodes"] for r in records]
        cells.append(interval(hops, 2) if any(hops) else "")
        for what, digits in (("searches", 2), ("steps", 2), ("tokens", 0)):
            sides = [interval([ratio(r, what, s) for r in records], digits) for s in (0, 1)]
            cells.append(" -> ".join(sides))
        cells.append(interval([r["right"][1] / r["episodes"] for r in records], 2))
        lines.append(cells)
    columns = ["reviser", "seeds", "traces", "revised", "hops", "searches", "steps"]
    return table([*columns, "policy tokens", "right"], lines)


def operators_table(results: Results) -> str:
    """Return the branches by operator and outcome, as shares of all of the operator."""
    lines = []
    for name in REVISIONS:
        tried: dict[str, dict[str, int]] = {}
        for record in results.get(name, ()):
            for key, count in record["tried"].items():
                operator, why = key.split()
                by_outcome = tried.setdefault(operator, {})
                by_outcome[why] = by_outcome.get(why, 0) + count
        for operator, by_outcome in sorted(tried.items()):
            total = sum(by_outcome.values())
            outcomes = ("taken", "longer", "wrong", "ungrounded")
            shares = [f"{by_outcome.get(why, 0) / total:.2f}" for why in outcomes]
            lines.append([f"{name}: {operator}", f"{total:,}", *shares])
    return table(
        ["reviser: operator", "branches", "taken", "no gain", "wrong", "ungrounded"], lines
    )


def cells_of(results: Results, part: str, what: str) -> Any:
    """Return the scores of a part as an array ``(seeds, questions)``."""
    return np.array([record["scores"][what] for record in results[part]], float)


def difference(results: Results, pair: str, what: str) -> Interval | None:
    """Return revised less original, over seeds and questions; None where a student is missing."""
    before, after = PAIRS[pair]
    if before not in results or after not in results:
        return None
    seeds = [{record["seed"] for record in results[part]} for part in (before, after)]
    if seeds[0] != seeds[1]:
        return None
    cells = cells_of(results, after, what) - cells_of(results, before, what)
    return bootstrap_crossed(cells.tolist())


def students_table(results: Results) -> str:
    """Return the students' scores, and the differences of each pair."""
    lines = []
    for pair, parts in PAIRS.items():
        effort = "steps" if pair == "chains" else "searches"
        for part in parts:
            if part not in results:
                continue
            examples = str(results[part][0]["examples"])
            means = [cells_of(results, part, what) for what in ("exact_match", effort, "tokens")]
            shown = [
                interval(list(m.mean(axis=1)), d) for m, d in zip(means, (3, 2, 0), strict=True)
            ]
            lines.append([part, str(len(results[part])), examples, *shown])
        found = [difference(results, pair, what) for what in ("exact_match", effort, "tokens")]
        if all(found):
            lines.append([f"{pair}: difference", "", "", *map(_shown, found)])
    return table(["student of", "seeds", "examples", "EM", "searches (steps)", "tokens"], lines)


def _shown(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def outcomes(results: Results) -> str:
    """Return what came of each claim: it holds, it fails, or it was not measured."""
    lines = []
    for number, name in enumerate(("oracle", "oracle", "weak-to-strong", "self", "chains"), 1):
        checks = _revision_checks(results, name) if number != 2 else []
        checks += _student_checks(results, name) if number != 1 else []
        known = [holds for _, holds in checks if holds is not None]
        verdict = "**Holds**" if len(known) == len(checks) and all(known) else "**Fails**"
        if not known or (len(known) < len(checks) and all(known)):
            verdict = "Not measured in full"
        lines.append(f"{number}. {verdict}: " + "; ".join(text for text, _ in checks) + ".")
    return "\n".join(lines)


def _revision_checks(results: Results, name: str) -> list[tuple[str, bool | None]]:
    """Return what was claimed of the revised traces, and whether it holds."""
    records = results.get(name, ())
    if not records:
        return [(f"{name} was not run", None)]
    right = all(r["right"][1] == r["episodes"] == r["right"][0] for r in records)
    checks: list[tuple[str, bool | None]] = [
        (f"answers {'stay' if right else 'do not all stay'} right", right)
    ]
    if name == "chains":
        before, after = (float(np.mean([ratio(r, "steps", s) for r in records])) for s in (0, 1))
        return [(f"{before:.2f} steps become {after:.2f}", after < before), *checks]
    before, after = (
        float(np.mean([ratio(r, "searches", s, "hops") for r in records])) for s in (0, 1)
    )
    if name == "oracle":
        text = f"{before:.3f} searches a hop become {after:.3f}"
        return [(text, abs(after - 1) <= NEAR), *checks]
    share = (before - after) / max(1e-9, before - 1)
    return [(f"{share:.0%} of the superfluous searches are gone", share >= 0.25), *checks]


def _student_checks(results: Results, name: str) -> list[tuple[str, bool | None]]:
    """Return what was claimed of the students, and whether it holds."""
    effort = "steps" if name == "chains" else "searches"
    checks: list[tuple[str, bool | None]] = []
    for what in (effort, "tokens", "exact_match"):
        found = difference(results, name, what)
        label = what.replace("_", " ")
        if found is None:
            checks.append((f"no students for {label}", None))
            continue
        holds = found.low > -MARGIN if what == "exact_match" else found.high < 0
        checks.append((f"{label} {_shown(found)}", holds))
    return checks


def page(results: Results) -> str:
    """Return the tables below the heading."""
    design = " ".join((__doc__ or "").split("\n\n")[2].split())
    minutes = {
        seed: sum(r["cpu"] for records in results.values() for r in records if r["seed"] == seed)
        for seed in sorted({r["seed"] for records in results.values() for r in records})
    }
    costs = ", ".join(f"{seconds / 60:.1f}" for seconds in minutes.values())
    return f"""{design}

CPU minutes of each seed: {costs}.

## What revision makes of traces

Means per trace before and after, with 95 % t intervals over seeds.

{revisions_table(results)}

{operators_table(results)}

## Students

EM and the others with t intervals over seeds; differences with 95 % intervals over seeds and
questions (pigeonhole bootstrap).

{students_table(results)}

## What was claimed, before the runs
{CLAIMS}
## What came

{outcomes(results)}
"""


def run(args: argparse.Namespace) -> None:
    """Run all parts that are not there."""
    for seed in args.seeds:
        for name in args.parts:
            if run_part(name, seed, args.folder / str(seed)):
                print(f"seed {seed}, {name}: done", flush=True)


def report(args: argparse.Namespace) -> None:
    """Write the page."""
    results = read_results(args.folder)
    seeds = sorted({record["seed"] for records in results.values() for record in records})
    numbers, module = (
        " ".join(map(str, seeds)),
        "python -m search_env.benchmarks.studies.retro_search",
    )
    head = heading(
        "Retro-Search",
        f"{module} run --seeds {numbers}; {module} report",
        ("search-env", "torch", "transformers", "numpy"),
    )
    publish(f"{head}\n{page(results)}", args.output)
    if args.episodes is not None:
        args.episodes.write_bytes(gzip.compress(json.dumps(results).encode(), mtime=0))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    running.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    running.set_defaults(function=run)
    reporting = commands.add_parser("report")
    reporting.add_argument("--output", type=Path)
    reporting.add_argument("--episodes", type=Path, help="compressed results by question")
    reporting.set_defaults(function=report)
    for command in (running, reporting):
        command.add_argument("--folder", type=Path, default=Path("runs/retro_search"))
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
