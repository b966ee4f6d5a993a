"""`wavbench finetune`: arguments to a run, its checkpoint and its record."""

import contextlib
import json
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from wavbench.benchmark import record as records
from wavbench.benchmark import schemas
from wavbench.benchmark.config import refuse_idle
from wavbench.benchmark.display import Display
from wavbench.benchmark.recipes import canonical_labels
from wavbench.benchmark.record import Record, hashed, key_of, write_record, write_text
from wavbench.upstream.description import built_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.machine import PeakMemory

HEAD = "linear"  # above an encoder that is trained for the task the head matters little, and the field takes this one
# Keys that say where things lie and how fast they go; what decides the result stands beside them in a record's key.
ELSEWHERE = ("manifest", "root", "upstream", "revision", "language", "checkpoints", "weights", "seed", "labels",
             "adaptation", "blocks", "rank", "alpha", "out", "decoded", "log_every", "save_every", "workers", "device",
             "devices", "nodes", "threads", "stores", "results")  # fmt: skip


def finetune(config: schemas.Finetune) -> int:
    """Train, or go on where the same command was stopped; then score the test split and write the record."""
    import torch

    from wavbench.benchmark.cell import Cell, Paths, plan_cell
    from wavbench.benchmark.loading import check_processes, check_seed, load_upstream
    from wavbench.downstream.adaptation import Adaptation
    from wavbench.downstream.finetune import Recipe
    from wavbench.downstream.label_budget import minutes_of
    from wavbench.downstream.labelled import check_task, labelled
    from wavbench.downstream.spec import load_task
    from wavbench.upstream.claims import alone
    from wavbench.upstream.decoded import decode
    from wavbench.upstream.manifest import read_manifest
    from wavbench.upstream.masked_encoder import Masking, trainable
    from wavbench.upstream.processes import PRECISIONS, make_fabric
    from wavbench.upstream.trackers import check_trackers
    from wavbench.upstream.training import Settings

    check_processes(config)
    check_trackers(config.trackers)
    for kind, names in (("partial", ["blocks"]), ("lora", ["rank", "alpha"])):
        if config.adaptation != kind:
            refuse_idle(config, names, f"adaptation={kind}")
    task = load_task(config.task)
    check_task(task)
    if config.precision not in PRECISIONS:
        raise UserError(f"precision={config.precision} is not known", remedy=f"one of: {', '.join(PRECISIONS)}")
    for name in ("head_seed", "labels_seed"):
        check_seed(name, getattr(config, name))
    masking = Masking(**{item.name: getattr(config, f"mask_{item.name}") for item in fields(Masking)})
    picked = {
        "adaptation": Adaptation(kind=config.adaptation, blocks=config.blocks, rank=config.rank, alpha=config.alpha),
        "recipe": _pick(Recipe, config, masking=masking),
        "settings": _pick(Settings, config, seed=config.head_seed),
    }
    minutes, config.labels = minutes_of(config.labels), canonical_labels(config.labels)
    manifest = read_manifest(config.manifest, config.root)
    upstream = load_upstream(config.upstream, config, checkpoints=config.checkpoints)
    encoder = trainable(upstream, {})  # refused, where it is, before other processes are started
    paths = Paths(Path(config.results), Path(config.stores))
    plan = plan_cell(Cell(task=config.task, seed=config.head_seed), upstream, manifest, paths)
    folder = Path(config.out or f"finetuned/{run_name(config, manifest.name)}")
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = make_fabric(config.device, config.devices, config.nodes, config.precision, unused=True)
    fabric.launch()
    first = fabric.is_global_zero
    with Display() as display, alone(folder, "training") if first else contextlib.nullcontext():

        def prepare():
            speech = decode(
                [manifest],
                Path(config.decoded or folder.parent / "decoded"),
                progress=lambda done, total: display.progress("decoding", done, total),
            )
            place = (encoder.conv.sizes, encoder.frame_rate)
            return labelled(task, manifest, speech, *place, minutes, config.labels_seed)

        data = prepare() if first else None
        fabric.barrier()
        data = data or prepare()  # the others find what the first has decoded
        run = _Run(config, plan, data, folder, fabric, display, **picked)
        run.refuse_other_training()
        if first:
            _tell_lists(run)
        if not run.is_done():
            _train_and_score(run)
    if first:
        found = records.read_record(run.record)
        low, high = found.ci95
        print(
            f"{found.task}, {found.adaptation}, {found.config['labels']:g} min of labels: {found.metric} "
            f"{found.value:.2f} {found.unit} [{low:.2f}, {high:.2f}]"
        )
        print(f"checkpoint: {folder}")
        print(f"record: {run.record}")
    return 0


class _Run:
    """What the steps below share: the words of the command, and what they led to."""

    def __init__(
        self, config: schemas.Finetune, plan, data, folder: Path, fabric, display, *, adaptation, recipe, settings
    ) -> None:
        self.config, self.plan, self.data, self.folder = config, plan, data, folder
        self.fabric, self.display = fabric, display
        self.adaptation, self.recipe, self.settings = adaptation, recipe, settings
        own = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
        self.key = key_of(
            {
                "corpus": plan.corpus_hash,
                "upstream": [plan.upstream.weights_hash, plan.upstream.config],
                "labels": data.labels_hash,
                "head": HEAD,
                "processes": fabric.world_size,
                **adaptation.described(),
                **own,
            }
        )
        self.record = Path(config.results) / "runs" / f"{self.key}.json"

    def is_done(self) -> bool:
        """Whether the record is there, and the folder holds what it is of."""
        from wavbench.downstream.saved import load_heads

        if not (self.record.is_file() and (self.folder / "checkpoint.safetensors").is_file()):
            return False
        try:
            written = load_heads(self.folder).about.get("record")
        except UserError:
            return False
        # heads from before they named their record are known by the settings in run.json
        return written == self.key or (written is None and self.settings_began() is not None)

    def refuse_other_training(self) -> None:
        """Raise a UserError where the folder holds a training with other settings, before anything is written there."""
        from wavbench.upstream.training_state import LAST, refuse_changes

        began, path = self.settings_began(), self.folder / "labels.txt"
        begun = began is not None or (self.folder / LAST).exists()
        if begun and path.is_file() and path.read_text(encoding="utf-8") != self.drawn:
            raise UserError(
                "this folder holds a training on other labels",
                where=path,
                remedy="give the labels it began with to resume it, or another out= folder",
            )
        if began is not None:
            refuse_changes(self.folder, json.dumps(began), self.determinants())

    @property
    def drawn(self) -> str:
        """What labels.txt says."""
        return "".join(f"{id}\n" for id in self.data.train_ids)

    def settings_began(self) -> dict | None:
        """What decides the result of the training in the folder, as run.json has it; None where it holds none."""
        try:
            found = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))["hyperparameters"]
            return found if isinstance(found, dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def determinants(self) -> dict:
        """What decides the result of this training, under the names that `downstream.finetune` has for it."""
        from wavbench.downstream.finetune import UNDECIDING

        settings = {name: value for name, value in asdict(self.settings).items() if name not in UNDECIDING}
        data = {"labels": self.data.labels_hash, "speech": self.data.speech.hash}
        own = {"task": self.config.task, "corpus": self.plan.corpus_hash, "head": HEAD}
        own |= {"processes": self.fabric.world_size, "init": self.plan.upstream.weights_hash}
        return own | data | self.adaptation.described() | asdict(self.recipe) | settings


def run_name(config: schemas.Finetune, corpus: str) -> str:
    """The folder of a run whose command gives none."""
    name = Path(config.upstream).stem if Path(config.upstream).exists() else config.upstream.replace("/", "_")
    parts = [config.task, corpus, name, config.adaptation, config.labels]
    parts += [f"random{config.seed}"] if config.weights else []
    parts += [f"seed{config.head_seed}"] if config.head_seed else []
    return "-".join(parts)


def _pick(kind: type, config, **given):
    """A dataclass from the fields of the same names; the rest keep their defaults."""
    names = {item.name for item in fields(kind)} & {item.name for item in fields(config)} - set(given)
    return kind(**{name: getattr(config, name) for name in names}, **given)


def _tell_lists(run: _Run) -> None:
    """Write which utterances are learned from and which are left out, and say so."""
    data, say = run.data, run.display.say
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / "labels.txt", run.drawn)
    speakers = f" of {data.table['speaker'].iloc[data.train].nunique()} speakers" if "speaker" in data.table else ""
    say(f"labels: {len(data.train)} utterances{speakers}, {data.train_minutes:.1f} min (labels.txt)")
    if data.skipped:
        table = pd.DataFrame([asdict(one) for one in data.skipped])
        write_text(run.folder / "skipped.csv", table.to_csv(index=False, lineterminator="\n"))
        named = ", ".join(one.id for one in data.skipped[:5])
        more = f" and {len(data.skipped) - 5} more" if len(data.skipped) > 5 else ""
        reasons = table["reason"].str.replace(r"\d+", "N", regex=True)  # how many frames, say, is each one's own
        first = table.groupby(reasons, sort=False)["reason"].agg(["size", "first"])
        why = "; ".join(f"{own.size}: {own.first}" if len(first) > 1 else own.first for own in first.itertuples())
        say(f"left out: {len(data.skipped)} utterances (skipped.csv): {named}{more}; {why}")


def _train_and_score(run: _Run) -> None:
    from wavbench.benchmark.loading import load
    from wavbench.downstream import finetune as tuning
    from wavbench.downstream.saved import add_about

    started, memory = datetime.now(UTC), PeakMemory()
    first, upstream, display = run.fabric.is_global_zero, run.plan.upstream, run.display

    def report(status) -> None:
        if first:
            v = status.values
            display.say(
                f"step {status.step}: loss {v['loss']:.3f} per symbol, {status.hours:.2f} h of audio, "
                f"{v['audio_seconds_per_second']:.0f} s/s"
            )
            display.progress("training", status.step, status.steps)

    tuned = tuning.finetune(
        run.data,
        upstream,
        adaptation=run.adaptation,
        recipe=run.recipe,
        settings=run.settings,
        head=HEAD,
        hyperparameters={"task": run.config.task, "corpus": run.plan.corpus_hash},
        folder=run.folder,
        fabric=run.fabric,
        workers=run.config.workers,
        report=report,
        trackers=run.config.trackers,
    )
    if not first:
        return
    path = tuning.write_encoder(run.folder, upstream, tuned.model)
    encoder = load(str(path), device=run.config.device)
    tuning.write_head(
        run.folder,
        tuned.model,
        run.data,
        task=run.config.task,
        head=HEAD,
        rate=run.config.head_rate,
        upstream={"name": path.name, "weights_hash": encoder.weights_hash},  # beside it, wherever both are moved
    )
    add_about(run.folder, record=run.key)
    scores = tuning.score(
        encoder, tuned.model.head, run.data, lambda done, total: display.progress("scoring test", done, total)
    )
    _write_record(run, tuned, scores, started, training_seconds(run.folder / "train.csv"), memory)


def training_seconds(table: Path) -> float:
    """What all processes of a run have trained, from the rows that they have logged: audio seen by its rate."""
    rows = pd.read_csv(table)
    audio = rows["audio_hours"].diff().fillna(rows["audio_hours"]) * 3_600
    return float((audio / rows["audio_seconds_per_second"]).sum())


def _write_record(
    run: _Run, tuned, scores: pd.DataFrame, started: datetime, trained: float, memory: PeakMemory
) -> None:
    from wavbench.benchmark.stats import interval
    from wavbench.downstream.metrics import METRICS, secondary
    from wavbench.downstream.mix import MIX

    config, plan, data = run.config, run.plan, run.data
    metric, upstream = plan.task.metric, plan.upstream
    public, predictions = _tables(plan.manifest.name, data.table, scores)
    low, high, unit = interval(metric.name, public)
    labels = round(data.train_minutes, 2)
    record = Record(
        key=run.key,
        task=config.task,
        corpus=plan.manifest.name,
        corpus_hash=plan.corpus_hash,
        synthetic=bool(built_in(plan.manifest)),
        split="test",
        upstream=Path(upstream.name).name if Path(upstream.name).exists() else upstream.name,
        checkpoint=upstream.checkpoint,
        checkpoint_hash=upstream.weights_hash,
        store_fingerprint="",  # features were never stored
        protocol=plan.protocol.name,
        protocol_version=plan.protocol.version,
        adaptation=config.adaptation,
        head=HEAD,
        layers=MIX,
        layer_numbers=list(range(upstream.num_states)),
        layer_weights=[round(weight, 5) for weight in tuned.model.head.stack.mix.weights()[0].tolist()],
        seed=config.head_seed,
        learning_rate=[config.peak_rate],
        learning_rate_curve=[
            {"fold": "", "dev": {f"{config.peak_rate:g}": round(tuned.dev, 4)}, "updates": tuned.step}
        ],
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        value=round(float(METRICS[metric.name](public)[0]), 4),
        ci95=[round(low, 4), round(high, 4)],
        ci_unit=unit,
        n=len(public),
        secondary={name: round(value, 4) for name, value in secondary(metric.name, scores).items()},
        cost={
            "extract_s": 0.0,
            "fit_s": round(trained, 2),
            "fit_memory_mb": round(memory.megabytes, 1),
            "store_mb": 0.0,
            "parameters": float(tuned.parameters),
            "upstream_parameters": float(upstream.num_parameters),
        },
        versions=records.versions(),
        commit=records.commit(),
        started=started.isoformat(timespec="seconds"),
        config={
            "budget": {"updates": config.steps, "batch_seconds": config.batch_seconds, "labels": config.labels},
            "labels": labels,  # minutes
            "labels_hash": data.labels_hash,
            "skipped": len(data.skipped),
            "random": config.weights == "random",
            "upstream": upstream.config,
            "heard": list(plan.heard),
            "trials": False,
            "recipe": {name: value for name, value in asdict(config).items() if name not in ELSEWHERE},
            **run.adaptation.described(),
        },
    )
    write_record(Path(config.results), record, public, predictions)


def _tables(salt: str, table: pd.DataFrame, scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores under hashed ids, which may be passed on, and predictions, which may not."""
    rows = scores["row"].to_numpy()
    public = {"utterance": hashed(table["id"].to_numpy()[rows], salt)}
    if "speaker" in table:
        public["speaker"] = hashed(table["speaker"].to_numpy()[rows], salt)
    counts = [name for name in scores if name not in ("row", "reference", "hypothesis")]
    ids = table["id"].to_numpy()[rows]
    predictions = {"id": ids, "reference": scores["reference"], "hypothesis": scores["hypothesis"]}
    return pd.DataFrame(public | {name: scores[name].to_numpy() for name in counts}), pd.DataFrame(predictions)
