"""How fast forward passes are, here and in other toolkits: the same weights, the same utterances, in turn.

What is timed is extraction: all states of every utterance, in the memory of the host. Peers get one utterance at a
time and padded batches; wavbench gets lists of waveforms, batched as `wavbench extract` does it. Rates are per CPU
second of all threads, which a busy machine disturbs little, and per second of the clock.
"""

import contextlib
import copy
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wavbench.benchmark import schemas
from wavbench.benchmark.display import Display
from wavbench.benchmark.loading import load_upstream
from wavbench.benchmark.peers import PEERS, Given, NoPeer, Peer, open_peer, said_by
from wavbench.benchmark.speed_parts import part_table
from wavbench.benchmark.speed_report import machine, write_report
from wavbench.upstream import audio, inference
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError, closest, refuse_below
from wavbench.upstream.export import export_hugging_face
from wavbench.upstream.extract import BEHIND, batch_seconds
from wavbench.upstream.extraction_plan import blocks
from wavbench.upstream.flops import forward_flops, product_rates
from wavbench.upstream.hugging_face import native_config
from wavbench.upstream.layers.linear import engine
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.models.wav2vec2 import Wav2Vec2

OWN = "wavbench"
RATE = audio.SAMPLE_RATE
MEAN_SECONDS = 12.0  # of LibriSpeech's utterances; most are near the longest
SHORTEST, LONGEST = 2.0, 17.0  # seconds
PROBE_SECONDS = (1.5, 4.0)  # utterances that errors are taken on: the shortest of a batch up to the longest
PROBES = 8
CASTS = {"fp32": ("fp32",), "bf16": ("autocast", "weights")}  # ways in which peers compute in a precision


@dataclass
class Way:
    """One contender, called in one way.

    Args:
        contender: whose forward pass.
        precision: "fp32" or "bf16".
        how: "autocast" or "weights" for bfloat16 of peers; else "".
        batch: utterances at once; 0 for wavbench, which batches by seconds.
        batches: of the utterances.
        run: computes batches of waveforms; all states are there when it returns.
        first: states of a batch's first utterance, and the layers that they are.
    """

    contender: str
    precision: str
    how: str
    batch: int
    batches: list[list[Tensor]]
    run: Callable[[Sequence[Sequence[Tensor]]], None]
    first: Callable[[Sequence[Tensor]], dict[int, Tensor]]
    errors: list[float | None] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    wall_seconds: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return " ".join(
            filter(None, (self.contender, self.precision, self.how, self.batch and f"batches of {self.batch}"))
        )


def speed(config: schemas.Speed) -> int:
    """The command `wavbench speed`."""
    names, precisions = _checked(config)
    torch.set_num_threads(config.threads)
    upstream = load_upstream(config.upstream, config, device=config.device)
    weights = upstream.checkpoint  # its name changes with the precision
    if not isinstance(upstream.model, Wav2Vec2):
        raise UserError(
            f"{upstream.name} has no peers",
            why="other toolkits are compared on the wav2vec 2.0 kind",
            remedy="a preset of wav2vec2, hubert, wavlm or data2vec",
        )
    waveforms = (
        speech_of(config.manifest, config.seconds, upstream.min_samples)
        if config.manifest
        else noise(config.seconds, config.seed)
    )
    absent: dict[str, str] = {}
    with Display() as display, tempfile.TemporaryDirectory() as folder:
        exported = export_hugging_face(upstream, Path(folder) / "hf")
        given = Given(*native_config(exported), exported)  # a data2vec may have left as a wav2vec 2.0
        peers = list(_opened(names, given, absent))
        for name, reason in absent.items():
            display.say(f"note: without {name}: {reason}")
        peaks = {precision: peak_rates(upstream.device, precision) for precision in precisions}
        ways = list(_ways(upstream, peers, given, waveforms, precisions, config))
        ways = _probed(ways, upstream.model, waveforms, absent, display)
        measure(ways, config.rounds, upstream.device, lambda *done: display.progress("measuring", *done))
        for precision in precisions:  # the clock of the processor may have changed
            again = peak_rates(upstream.device, precision)
            peaks[precision] = {name: max(rate, again[name]) for name, rate in peaks[precision].items()}
        parts = _parts(ways, upstream, waveforms, peaks)
    lengths = np.array([len(one) / RATE for one in waveforms])
    result = {
        "what": "forward passes for extraction, all states, medians of interleaved rounds",
        "upstream": config.upstream,
        "weights": weights,
        "device": config.device,
        **machine(upstream.device),
        "threads": config.threads,
        "speech": Path(config.manifest).name if config.manifest else f"noise, seed {config.seed}",
        "utterances": len(waveforms),
        "audio_seconds": round(float(lengths.sum()), 2),
        "shortest_seconds": round(float(lengths.min()), 2),
        "longest_seconds": round(float(lengths.max()), 2),
        "rounds": config.rounds,
        "peers_sorted_by_length": config.sort,
        "states_copied_to_host": config.copy,
        "products": engine() if upstream.device.type == "cpu" else "torch",
        "gflop_per_audio_second": round(forward_flops(upstream.model, seen_seconds(waveforms)) / 1e9, 2),
        "peaks_gflops": {p: {name: round(rate / 1e9, 1) for name, rate in rates.items()} for p, rates in peaks.items()},
        "errors_against": "our own model in float64, on the shortest utterance of a batch (valid frames)",
        "parts": parts,
        "absent": absent,
        "remark": config.remark,
        "peers": {peer.name: peer.version for peer in peers},
    }
    rows = [_row(way, float(lengths.sum()), result) for way in ways]
    path, text = write_report(result, rows, Path(config.results))
    print(text)
    print(f"results: {path}")
    return 0


def _checked(config: schemas.Speed) -> tuple[list[str], list[str]]:
    """Names of peers and precisions."""
    names = [name.strip() for name in config.peers.split(",") if name.strip()]
    for name in names:
        if name not in PEERS:
            raise UserError(
                f"there is no peer {name!r}", where=f"peers={config.peers}", remedy=closest(name, list(PEERS))
            )
    if config.precision not in ("both", *CASTS):
        raise UserError(f"precision={config.precision} is not known", remedy="fp32, bf16 or both")
    refuse_below(config, {"rounds": 1, "threads": 1, "seconds": SHORTEST})
    if not config.batches or min(config.batches) < 1:
        raise UserError("batches are numbers of utterances", where=f"batches={config.batches}", remedy="batches=1,8")
    return list(dict.fromkeys(names)), list(CASTS) if config.precision == "both" else [config.precision]


def noise(seconds: float, seed: int) -> list[Tensor]:
    """Utterances of LibriSpeech-like lengths, noise with the spectrum of speech (falling with frequency)."""
    random = np.random.default_rng(seed)
    count = max(round(seconds / MEAN_SECONDS), 1)
    lengths = SHORTEST + (LONGEST - SHORTEST) * random.beta(2, 1, count)
    waveforms = []
    for size in (lengths * RATE).astype(int):
        spectrum = np.fft.rfft(random.standard_normal(size))
        spectrum /= np.maximum(np.fft.rfftfreq(size, 1 / RATE), 100.0)
        samples = np.fft.irfft(spectrum, size)
        waveforms.append(torch.from_numpy((0.1 * samples / samples.std()).astype(np.float32)))
    return waveforms


def speech_of(manifest: str, seconds: float, min_samples: int) -> list[Tensor]:
    """The first utterances of a corpus, as many as make up the seconds; those that cannot be used are left out."""
    table, waveforms, total = read_manifest(manifest), [], 0.0
    for row in range(len(table)):
        if total >= seconds:
            break
        start, end = (float(table.table[name].iat[row]) if name in table.table else np.nan for name in ("start", "end"))
        with contextlib.suppress(audio.AudioError):
            samples = audio.load_audio(table.audio_path(row), start, end)
            if min_samples <= len(samples) <= inference.WHOLE_SECONDS * RATE:
                waveforms.append(torch.from_numpy(samples))
                total += len(samples) / RATE
    if not waveforms:
        raise UserError("no utterance can be used", where=manifest, remedy="wavbench corpus check MANIFEST")
    return waveforms


def _opened(names: Sequence[str], given: Given, absent: dict[str, str]) -> Iterator[Peer]:
    for name in names:
        try:
            yield open_peer(name, given)
        except NoPeer as error:
            absent[name] = str(error)


def peak_rates(device: torch.device, precision: str) -> dict[str, float]:
    """Operations per CPU second on a CPU, and per second elsewhere."""
    return product_rates(device, precision, time.process_time if device.type == "cpu" else time.perf_counter)


def _ways(
    upstream: Upstream,
    peers: Sequence[Peer],
    given: Given,
    waveforms: list[Tensor],
    precisions: Sequence[str],
    config: schemas.Speed,
) -> Iterator[Way]:
    seconds = np.array([len(one) / RATE for one in waveforms])
    plan = [batch for block in blocks(seconds, lambda _: 0, 1, batch_seconds(upstream)) for batch in block]
    own = [[waveforms[row] for row in batch] for batch in plan]
    ordered = sorted(waveforms, key=len) if config.sort else waveforms
    for precision in precisions:
        yield _own_way(upstream, precision, own, config.copy)
        for peer in peers:
            for how in CASTS[precision]:
                if how == "weights":
                    model = open_peer(peer.name, given).model.to(upstream.device, torch.bfloat16)
                else:
                    model = peer.model.to(upstream.device)
                for size in config.batches:
                    groups = [ordered[first : first + size] for first in range(0, len(ordered), size)]
                    yield _peer_way(peer, model, precision, how, size, groups, upstream.device, config.copy)


def _own_way(upstream: Upstream, precision: str, batches: list[list[Tensor]], to_host: bool) -> Way:
    layers = range(upstream.num_states)

    def run(batches: Sequence[Sequence[Tensor]]) -> None:
        upstream.set_precision(precision)
        waiting: deque[inference.Pending] = deque()
        for batch in batches:
            if to_host:
                waiting.append(upstream.batch(batch, layers))
            else:
                with inference.computing(upstream.device, precision):
                    lengths = torch.tensor([len(one) for one in batch])
                    padded = nn.utils.rnn.pad_sequence(batch, batch_first=True)
                    upstream.model.packed(padded.to(upstream.device), lengths.to(upstream.device))
            if len(waiting) > BEHIND:
                waiting.popleft().result()
        for pending in waiting:
            pending.result()

    def first(batch: Sequence[Tensor]) -> dict[int, Tensor]:
        upstream.set_precision(precision)
        return dict(enumerate(upstream.batch(batch, layers).result()[0]))

    return Way(OWN, precision, "", 0, batches, run, first)


def _peer_way(
    peer: Peer,
    model: nn.Module,
    precision: str,
    how: str,
    size: int,
    batches: list[list[Tensor]],
    device: torch.device,
    to_host: bool,
) -> Way:
    def states(batch: Sequence[Tensor]) -> Sequence[Tensor]:
        cast = torch.autocast(device.type, torch.bfloat16, enabled=how == "autocast")
        with torch.inference_mode(), cast:
            return peer.forward(model, batch)

    def run(batches: Sequence[Sequence[Tensor]]) -> None:
        for batch in batches:
            found = states(batch)
            if to_host:
                found = [state.cpu() for state in found]

    def first(batch: Sequence[Tensor]) -> dict[int, Tensor]:
        found = states(batch[:size])
        return {layer: state[0].float().cpu() for layer, state in zip(peer.layers, found, strict=False)}

    return Way(peer.name, precision, how.removeprefix(precision), size, batches, run, first)


def _probed(
    ways: Sequence[Way], model: nn.Module, waveforms: list[Tensor], absent: dict[str, str], display
) -> list[Way]:
    """The ways that work, with the relative error of each of their layers; this also warms them up."""
    sizes = np.linspace(*PROBE_SECONDS, PROBES) * RATE
    probe = [waveforms[k % len(waveforms)][: int(size)] for k, size in enumerate(sizes)]
    exact = copy.deepcopy(model).cpu().double()
    with torch.inference_mode():
        reference = exact(probe[0][None].double(), torch.tensor([len(probe[0])])).states[0]
    works = []
    for number, way in enumerate(ways):
        display.progress("warming up", number, len(ways))
        try:
            found = way.first(probe)
            if torch.device(next(model.parameters()).device).type != "cpu":
                way.run(way.batches)
        except Exception as error:  # other people's code, and memory: whatever it is, the others still count
            if way.contender == OWN:
                raise
            absent[way.name] = said_by(error)
            display.say(f"note: without {way.name}: {said_by(error)}")
            continue
        way.errors = [
            _error(found[layer][: len(state)], state) if layer in found else None
            for layer, state in enumerate(reference)
        ]
        works.append(way)
    display.progress("warming up", len(ways), len(ways))
    return works


def _error(states: Tensor, reference: Tensor) -> float:
    return float((states.double() - reference).norm() / reference.norm())


def measure(ways: Sequence[Way], rounds: int, device: torch.device, progress: Callable[[int, int], None]) -> None:
    """Time all ways in turn, round after round."""

    def settled() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for number in range(rounds):
        for place, way in enumerate(ways):
            progress(number * len(ways) + place, rounds * len(ways))
            settled()
            began, cpu = time.perf_counter(), time.process_time()
            way.run(way.batches)
            settled()
            way.cpu_seconds.append(time.process_time() - cpu)
            way.wall_seconds.append(time.perf_counter() - began)
    progress(rounds * len(ways), rounds * len(ways))


def seen_seconds(waveforms: Sequence[Tensor]) -> float:
    """Seconds of speech that a frame's attention sees, on average over frames: more than the mean length."""
    lengths = np.array([len(one) / RATE for one in waveforms])
    return float((lengths**2).sum() / lengths.sum())


def _parts(ways: Sequence[Way], upstream: Upstream, waveforms: list[Tensor], peaks: dict) -> dict[str, list[dict]]:
    """Where our time goes, by precision; nothing where it cannot be told from outside (kernels run on their own)."""
    if upstream.device.type != "cpu":
        return {}
    seconds, seen = sum(len(one) for one in waveforms) / RATE, seen_seconds(waveforms)
    return {
        way.precision: part_table(
            upstream.model, lambda way=way: way.run(way.batches), seconds, seen, max(peaks[way.precision].values())
        )
        for way in ways
        if way.contender == OWN
    }


def _row(way: Way, seconds: float, result: dict) -> dict:
    per_cpu = seconds / statistics.median(way.cpu_seconds)
    per_wall = seconds / statistics.median(way.wall_seconds)
    rate = per_cpu if result["device"] == "cpu" else per_wall
    peak = max(result["peaks_gflops"][way.precision].values())
    known = [error for error in way.errors if error is not None]
    return {
        "contender": way.contender,
        "precision": way.precision,
        "how": way.how,
        "batch": way.batch,
        "per_cpu_second": round(per_cpu, 3),
        "per_wall_second": round(per_wall, 3),
        "peak_share": round(rate * result["gflop_per_audio_second"] / peak, 4),
        "largest_error": float(f"{max(known):.2e}"),
        "errors": [None if error is None else float(f"{error:.2e}") for error in way.errors],
    }
