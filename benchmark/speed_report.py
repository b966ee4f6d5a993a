"""What `wavbench speed` writes: figures as JSON, and a page that says what they mean."""

import json
import os
import platform
from pathlib import Path

import torch

from wavbench.upstream.claims import temporary_in

OWN = "wavbench"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "sve", "bf16")


def machine(device: torch.device) -> dict:
    """The processor that computed, and the versions that matter for its speed."""
    found: dict = {"machine": platform.machine()}
    if device.type == "cuda":
        found["processor"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    else:
        lines = _cpuinfo()
        words = (lines.get("model name"), *(f"{key} {lines[key]}" for key in ("cpu family", "model") if key in lines))
        found["processor"] = ", ".join(filter(None, words)) or platform.processor() or "unknown"
        flags = (lines.get("flags") or lines.get("Features") or "").split()
        found["flags"] = [flag for flag in FLAGS if flag in flags]
        found["cores"] = os.cpu_count()
    return found | {"torch": torch.__version__, "python": platform.python_version()}


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    found: dict[str, str] = {}
    for key, _, value in pairs:
        found.setdefault(key.strip(), value.strip())
    return found


def write_report(result: dict, rows: list[dict], folder: Path) -> tuple[Path, str]:
    """Write the JSON and the page; gives the path of the first and the table for a terminal."""
    rate = "per_cpu_second" if result["device"] == "cpu" else "per_wall_second"
    result = {**result, "ratios": ratios(rows, rate), "rows": rows}
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(result["upstream"]).name)
    path = folder / "speed" / f"{name}_{torch.device(result['device']).type}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = _table(result)
    for place, text in ((path, json.dumps(result, indent=1) + "\n"), (path.with_suffix(".md"), _page(result, table))):
        temporary = temporary_in(place.parent)
        temporary.write_text(text)
        os.replace(temporary, place)
    return path, "\n".join([*table, "", *_sentences(result)])


def ratios(rows: list[dict], rate: str) -> dict:
    """How many times as fast as the fastest peer each precision of ours is."""
    found = {}
    peers = [row for row in rows if row["contender"] != OWN]
    largest = max((row["batch"] for row in peers), default=0)
    for own in (row for row in rows if row["contender"] == OWN):
        rivals = {
            "fastest peer, fp32": [row for row in peers if row["precision"] == "fp32"],
            "fastest peer, bf16": [row for row in peers if row["precision"] == "bf16"],
            f"fastest peer, fp32, padded batches of {largest}": [
                row for row in peers if row["precision"] == "fp32" and row["batch"] == largest > 1
            ],
            f"fastest peer, bf16, padded batches of {largest}": [
                row for row in peers if row["precision"] == "bf16" and row["batch"] == largest > 1
            ],
        }
        found[own["precision"]] = {}
        for name, some in rivals.items():
            if some and not (own["precision"] == "fp32" and "bf16" in name):
                best = max(some, key=lambda row: row[rate])
                ratio = round(own[rate] / best[rate], 3)
                found[own["precision"]][name] = {"ratio": ratio, "peer": best["contender"], "way": way_of(best)}
    return found


def way_of(row: dict) -> str:
    if row["contender"] == OWN:
        return "by total seconds, nothing padded"
    way = "one at a time" if row["batch"] == 1 else f"padded batches of {row['batch']}"
    return f"{way}, {'bf16 weights' if row['how'] == 'weights' else row['how']}" if row["how"] else way


def _table(result: dict) -> list[str]:
    where = "CPU second" if result["device"] == "cpu" else "second of the host's CPU"
    lines = [
        f"| contender | precision | utterances | audio s per {where} | audio s per wall second | share of peak | "
        "largest error |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['contender']} | {row['precision']} | {way_of(row)} | {row['per_cpu_second']:.2f} | "
            f"{row['per_wall_second']:.2f} | {row['peak_share']:.0%} | {row['largest_error']:.1e} |"
        )
    return lines


def _sentences(result: dict) -> list[str]:
    lines = []
    for precision, found in result["ratios"].items():
        for name, one in found.items():
            lines.append(f"wavbench {precision} against the {name} ({one['peer']}, {one['way']}): {one['ratio']:.2f}x")
    for name, reason in result["absent"].items():
        lines.append(f"without {name}: {reason}")
    return lines


def _page(result: dict, table: list[str]) -> str:
    peaks = []
    for precision, rates in result["peaks_gflops"].items():
        said = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        peaks.append(f"- {precision}: {said} GFLOP/s ({max(rates, key=rates.get)} counts)")
    flags = f" ({', '.join(result['flags'])})" if result.get("flags") else ""
    versions = ", ".join(f"{name} {version}" for name, version in result["peers"].items())
    order = "by length" if result["peers_sorted_by_length"] else "in random order"
    copied = "in the memory of the host" if result["states_copied_to_host"] else "left on the device"
    return "\n".join(
        [
            f"# Speed of {result['upstream']} on {result['processor']}",
            "",
            f"Forward passes that give all states, {copied}; the same weights ({result['weights']}) and the same "
            f"{result['utterances']} utterances ({result['audio_seconds']:.0f} s in all, "
            f"{result['shortest_seconds']:.1f} to {result['longest_seconds']:.1f} s each; {result['speech']}) for all, "
            f"in turn, medians of {result['rounds']} rounds; {result['threads']} thread"
            f"{'s' * (result['threads'] > 1)}. Peers get utterances {order}.",
            "",
            *table,
            "",
            *([result["remark"], ""] if result["remark"] else []),
            *(f"- {line}" for line in _sentences(result)),
            "",
            "## What the figures are",
            "",
            "Errors are relative L2 distances per layer, the largest of all layers, against "
            f"{result['errors_against']}. Padded batches of peers differ by what padding does to their features.",
            "",
            f"The model needs {result['gflop_per_audio_second']:.1f} GFLOP per second of audio at these lengths. The "
            "share of peak is that, times the rate, over what the fastest large matrix product reaches here in the "
            "same precision:",
            "",
            *peaks,
            "",
            *_own_products(result),
            *_bounds(result),
            f"{result['processor']}{flags}; {result['machine']}, Python {result['python']}, torch {result['torch']}, "
            f"float32 products by {result['products']}; {versions or 'no peers'}.",
            "",
        ]
    )


def _own_products(result: dict) -> list[str]:
    """What peers can reach at all in float32, as they multiply through torch."""
    rates = result["peaks_gflops"].get("fp32", {})
    if "onednn" not in rates:
        return []
    share = rates["torch"] / max(rates.values())
    return [
        f"Peers multiply float32 through torch (MKL in most builds), which reaches {share:.0%} of the fastest product "
        "here. Where it reaches half, as on AMD's Zen 5, ratios in float32 can be twice as large.",
        "",
    ]


def _bounds(result: dict) -> list[str]:
    """What ratio to a peer the roof leaves possible."""
    lines = []
    for precision in result["ratios"]:
        peers = [row for row in result["rows"] if row["contender"] != OWN and row["precision"] == precision]
        own = next(row for row in result["rows"] if row["contender"] == OWN and row["precision"] == precision)
        best = max((row["peak_share"] for row in peers), default=0)
        if best:  # a small model on a large device may round to nothing
            lines.append(
                f"In {precision} the fastest peer is at {best:.0%} of the peak already: computing the same operations, "
                f"nothing can be more than {1 / best:.2f} times as fast on this processor. wavbench is at "
                f"{own['peak_share']:.0%}."
            )
            lines.append("")
        if result["parts"].get(precision):
            lines += [
                f"Where the time of wavbench goes in {precision}, and what part of all of it each part would save "
                "at the peak:",
                "",
                "| part | time | operations | share of peak in it | lost to the peak |",
                "| --- | ---: | ---: | ---: | ---: |",
            ]
            for part in result["parts"][precision]:
                lines.append(
                    f"| {part['part']} | {part['time_share']:.0%} | {part['operations_share']:.0%} | "
                    f"{part['peak_share']:.0%} | {part['lost_share']:.1%} |"
                )
            lines.append("")
            if any(part["peak_share"] > 1 for part in result["parts"][precision]):
                lines += ["(More than the peak: computed with fewer operations than its definition counts.)", ""]
    return lines
