"""The typed schema of every command: what keys it has, of which type, with which values where none is given.

Those of `wavbench corpus` are in corpus_schemas.py.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Extract:
    """Dump layer-wise features of a corpus to a store."""

    upstream: str = "???"  # preset, folder, .safetensors or .pt file, or hub id
    manifest: str = "???"  # .csv, .jsonl or .parquet
    root: str = ""  # folder that `audio` is relative to; the manifest's own where empty
    weights: str = ""  # "random" for a random twin
    seed: int = 0  # of random weights
    revision: str = ""  # of a hub id
    language: str = ""  # whose adapters a multilingual checkpoint (MMS) is used with
    precision: str = "fp32"  # bf16: twice as fast where the hardware has it, states differ by about a percent
    checkpoints: str = ""  # folder that official checkpoints lie in; the Hub where empty
    layers: str = "all"  # or numbers: 4,8
    pool: str = "none"  # none: frames; mean: mean and deviation over frames
    dtype: str = "float16"  # float32, int8
    device: str = "cpu"  # cuda, cuda:1
    store: str = ""  # folder; under `stores` where empty
    stores: str = "features"
    results: str = "results"


@dataclass
class Run:
    """One cell: a task on a corpus with an upstream."""

    task: str = "???"
    upstream: str = "???"
    manifest: str = "???"
    root: str = ""  # folder that `audio` is relative to; the manifest's own where empty
    weights: str = ""
    seed: int = 0  # of random weights
    revision: str = ""
    language: str = ""  # of adapters (MMS)
    precision: str = "fp32"  # bf16
    checkpoints: str = ""  # folder that official checkpoints lie in; the Hub where empty
    layers: str = "mix"  # mix, all, or numbers: 4,8
    head: str = ""  # a file of downstream/heads that the task takes; its own where empty
    protocol: str = "clean"  # superb
    head_seed: int = 0  # of head, batches and drawn trials
    budget: float = 1.0  # share of the protocol's updates
    trials: str = ""  # verification trials; drawn where empty
    lm: str = ""  # asr: decode with a language model, too: train (of the train transcripts), or an ARPA file
    lm_order: int = 3  # of lm=train
    lm_unit: str = "word"  # what its tokens are: word, character
    lm_neural: str = ""  # folder of `wavbench lm kind=transformer`, to reorder the best hypotheses
    lm_closed: bool = False  # write words of the language model only
    units: int = 0  # st: pieces of words that are written, made from train by sentencepiece; 0 for characters
    features: str = "stored"  # streamed: computed whenever a head wants them, for stores that fit on no disk
    dtype: str = "float16"  # of stored frames: float32, int8
    save: str = ""  # folder for the trained head, for transcribe, classify, verify and translate
    device: str = "cpu"
    head_device: str = "cpu"  # where heads are trained: cuda for recurrent ones
    stores: str = "features"
    results: str = "results"


@dataclass
class Infer:
    """A trained head on audio files."""

    head: str = "???"  # folder of `wavbench run ... save=FOLDER` or of `wavbench finetune`
    audio: list[str] = field(default_factory=list)  # files
    upstream: str = ""  # where the upstream that the head was trained on lies now; as it was then where empty
    checkpoints: str = ""  # folder that official checkpoints lie in; the Hub where empty
    json: bool = False  # a line of JSON for each file
    lm: str = ""  # transcribe: an ARPA file, or a language model of `wavbench lm`
    lm_unit: str = ""  # what its tokens are: word, character; as the head was tuned with, or words, where empty
    lm_weight: float | None = None  # as tuned on dev where the head was trained with lm=, or 0.5, where not given
    lm_length: float | None = None  # added for each word; as tuned, or 1
    lm_neural: str = ""  # folder of `wavbench lm kind=transformer`, to reorder the best hypotheses
    lm_neural_weight: float | None = None  # as tuned where the head was trained with lm_neural=, or 0.5
    device: str = "cpu"
    stores: str = "features"
    results: str = "results"


@dataclass
class SweepUpstream:
    """One upstream of a sweep."""

    name: str = "???"
    weights: str = ""
    seed: int = 0
    revision: str = ""
    language: str = ""
    precision: str = "fp32"
    tasks: list[str] = field(default_factory=list)  # those of its cells that are run; all where empty


@dataclass
class SweepCell:
    """One task of a sweep, run with every upstream."""

    task: str = "???"
    manifest: str = ""  # relative to `corpora`
    corpus: str = ""  # or a data set as its authors lay it out, under `root`: a reader of `wavbench corpus list`
    name: str = ""  # of its manifest; CORPUS and its options where empty
    options: dict[str, Any] = field(default_factory=dict)  # of that reader
    lexicon: str = ""  # relative to the corpus, or to `root`: phones of its text
    layers: str = "mix"
    head: str = ""  # a file of downstream/heads that the task takes; its own where empty
    budget: float = 1.0
    protocols: list[str] = field(default_factory=lambda: ["clean"])  # superb
    trials: str = ""  # relative to `corpora`, or the name of a list of the corpus
    lm: str = ""  # asr: train, or an ARPA file relative to `corpora`
    units: int = 0  # st: pieces of words that are written; 0 for characters
    features: str = "stored"  # streamed
    dtype: str = "float16"  # of stored frames: float32, int8
    seeds: int = 0  # the first so many of head_seeds; all where 0


@dataclass
class Sweep:
    """Many cells: every upstream x every task x every seed of an experiment."""

    experiment: str = "???"  # a file of configs/experiment, or a .yaml file
    corpora: str = "."  # folder that the cells' manifests lie in, or are written to
    root: str = ""  # folder that data sets lie in, as their authors lay them out
    checkpoints: str = ""  # folder that official checkpoints lie in; the Hub where empty
    partial: bool = False  # take what is there of data sets that are not complete
    budget: float = 1.0  # share of all cells' updates, for a look
    dry: bool = False  # print what it would take, in disk and time, and do nothing
    tasks: list[str] = field(default_factory=list)  # some of its tasks; all where empty
    only: list[str] = field(default_factory=list)  # some of its upstreams, by name; all where empty
    upstreams: list[SweepUpstream] = field(default_factory=list)
    cells: list[SweepCell] = field(default_factory=list)
    head_seeds: list[int] = field(default_factory=lambda: [0])
    device: str = "cpu"
    head_device: str = "cpu"  # where heads are trained: cuda for recurrent ones
    workers: int = 1
    launcher: str = "local"  # joblib, submitit, ray: what starts the workers
    engine: list[str] = field(default_factory=list)  # its options: slurm_partition:gpu,timeout_min:240
    retry_failed: bool = False  # cells too that failed before
    stores: str = "features"
    results: str = "results"


@dataclass
class Demo:
    """Five tasks on the built-in corpus, then the page."""

    corpus: str = "demo/synthetic"
    stores: str = "demo/features"
    results: str = "demo/results"
    workers: int = 2


@dataclass
class Pretrain:
    """Train an upstream on speech without labels; the same command goes on where a run was stopped."""

    objective: str = "???"  # a file of upstream/pretrain: hubert, wav2vec2, ...
    manifest: str = "???"  # one or several, with commas between
    root: str = ""  # folder that their `audio` is relative to; each manifest's own where empty
    preset: str = "tiny"  # a recipe of configs/pretrain, or a .yaml file
    out: str = ""  # folder of the run; pretrained/OBJECTIVE_PRESET where empty
    init: str = ""  # preset, folder or file of a trained encoder of the same shape to begin with
    decoded: str = ""  # folder for decoded audio, which runs may share; beside the run where empty
    units: str = ""  # a unit file; where empty, made of units_from or MFCC (hubert, wavlm) or codes (vq_wav2vec_bert)
    units_from: str = ""  # hubert, wavlm: a folder or checkpoint whose states are clustered
    units_layer: int = 6  # of units_from
    clusters: int = 100  # hubert, wavlm: units
    codes: str = ""  # vq_wav2vec_bert: preset, folder or file of the trained vq-wav2vec whose codes are read
    dropout: float = 0.0  # of attention's and feed-forward's outputs
    attention_dropout: float = 0.0
    inner_dropout: float = 0.0  # between the linear layers of feed-forward
    projection_dropout: float = 0.0  # of the frames that the transformer begins with
    layerdrop: float = 0.0  # share of blocks skipped
    probe_manifest: str = ""  # corpus with phones and phone_ends for the phones probe
    probe_utterances: int = 300  # of it that are used
    workers: int = 1  # processes that make batches
    device: str = "cpu"
    devices: int = 1  # processes per node
    nodes: int = 1
    threads: int = 0  # per process; 0 leaves it to torch
    audio_on_device: bool = False  # keep all decoded audio in the device's memory
    stores: str = "features"  # for the states that are clustered
    trackers: list[str] = field(default_factory=list)  # mlflow, wandb: beside CSV files and TensorBoard
    results: str = "results"


@dataclass
class Finetune:
    """Train a CTC head and the upstream below it on audio; the same command goes on where a run was stopped."""

    task: str = "???"  # asr, pr
    upstream: str = "???"  # of the kind of wav2vec 2.0
    manifest: str = "???"
    root: str = ""  # folder that `audio` is relative to; the manifest's own where empty
    weights: str = ""  # "random" for a random twin: the same training without pretraining
    seed: int = 0  # of random weights
    revision: str = ""
    language: str = ""  # of adapters (MMS)
    checkpoints: str = ""  # folder that official checkpoints lie in; the Hub where empty
    adaptation: str = "full"  # what is trained beside the head: full, partial (last blocks), lora, frozen (nothing)
    blocks: int = 4  # of partial
    rank: int = 8  # of lora's pairs
    alpha: float = 16.0  # lora's pairs are multiplied by alpha / rank
    labels: str = "all"  # train speech that is learned from: 10min, 1h, 10h, 100h, another time
    labels_seed: int = 0  # of its draw
    head_seed: int = 0  # of head, batches and masks
    # Rates and steps are for the tiny presets and a CPU, some ten minutes on one core, in which nothing is learned by
    # heart: with dropouts and masks CTC took twice as long to write anything but blanks. Long trainings want them, as
    # in table 6 of wav2vec 2.0: layerdrop=0.1 mask_frame_starts=0.065 mask_channel_starts=0.004 mask_channel_span=64.
    steps: int = 3000
    peak_rate: float = 1e-3  # of the encoder
    head_rate: float = 2e-3
    mix_rate: float = 1e-2  # of the weights of the layers
    head_only: float = 0.05  # share of the steps in which the encoder is not touched
    warmup: float = 0.1  # shares of the steps in which rates rise, and stay; then they fall
    hold: float = 0.4
    decay_power: float = 1.0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    batch_seconds: float = 8.0  # of audio per process and batch
    accumulate: int = 1  # batches per process and update
    dropout: float = 0.0  # of attention's and feed-forward's outputs
    layerdrop: float = 0.0  # share of blocks skipped
    mask_frame_starts: float = 0.0  # share of the frames that begin a hidden span
    mask_frame_span: int = 10
    mask_channel_starts: float = 0.0  # share of the channels that begin a hidden span
    mask_channel_span: int = 16
    patience: int = 0  # looks at dev without a better one after which to stop; 0 for never
    dev_seconds: float = 300.0  # of dev speech that is looked at
    dev_every: int = 250  # steps
    log_every: int = 50
    save_every: int = 250
    precision: str = "bf16"  # of training; test is scored in fp32
    out: str = ""  # folder of the run; a name under finetuned/ where empty
    decoded: str = ""  # folder for decoded audio, which runs may share; beside the run where empty
    workers: int = 0  # processes that make batches
    device: str = "cpu"
    devices: int = 1  # processes per node
    nodes: int = 1
    threads: int = 0  # per process; 0 leaves it to torch
    stores: str = "features"
    trackers: list[str] = field(default_factory=list)  # mlflow, wandb: beside CSV files and TensorBoard
    results: str = "results"


@dataclass
class Lm:
    """A language model of transcripts or of a text file, for decoding."""

    out: str = "???"  # a file .arpa for an n-gram model, a folder for a transformer
    text: str = ""  # a sentence on each line
    manifest: str = ""  # or the column of its train split; dev is measured
    root: str = ""  # folder that its `audio` is relative to; the manifest's own where empty
    column: str = "text"  # phones: an n-gram model of phones
    kind: str = "ngram"  # transformer
    unit: str = ""  # word, character; words for n-grams, characters for a transformer where empty
    order: int = 4  # of n-grams: 1 to 6
    prune: bool = False  # leave out n-grams that occur once
    epochs: int = 30  # of a transformer, at most
    seed: int = 0  # of a transformer


@dataclass
class Release:
    """A finished training to an fp16 checkpoint with its model card and curves."""

    run: str = "???"  # folder of `wavbench pretrain`
    name: str = "???"  # preset that the checkpoint is for
    licence: str = "???"  # of the weights, one line
    notes: str = ""  # a paragraph for the card
    heard: list[str] = field(default_factory=list)  # corpora in the data by other names: boards mark it there
    out: str = "upstream/weights"


@dataclass
class Export:
    """An upstream to a folder that transformers opens, with a model card."""

    upstream: str = "???"  # preset, folder, file or hub id
    to: str = "???"  # hf:FOLDER; the folder must be new or empty
    licence: str = "unknown"  # of the weights, one line
    weights: str = ""
    seed: int = 0  # of random weights
    revision: str = ""
    language: str = ""  # of adapters (MMS)


@dataclass
class Speed:
    """Forward passes of wavbench and of other toolkits with the same weights, side by side."""

    upstream: str = "???"  # preset, folder, file or hub id, of the wav2vec 2.0 kind
    peers: str = "transformers,torchaudio,s3prl,speechbrain"
    weights: str = "random"  # "" for those of a checkpoint
    seed: int = 0  # of random weights, lengths and noise
    revision: str = ""  # of a hub id
    language: str = ""  # of adapters (MMS)
    manifest: str = ""  # of speech; noise of LibriSpeech-like lengths where empty
    seconds: float = 96.0  # of audio in a round
    rounds: int = 3
    batches: list[int] = field(default_factory=lambda: [1, 8])  # utterances that peers get at once, padded
    sort: bool = False  # peers get utterances by length
    precision: str = "both"  # fp32, bf16
    copy: bool = True  # states count once they are in the memory of the host
    threads: int = 1
    remark: str = ""  # a sentence for the page: what a reader ought to know of this run
    device: str = "cpu"
    results: str = "results"


@dataclass
class Analyse:
    """What the layers of upstreams hold and how alike they are: CKA, CCA, norms and t-SNE of a sample of a corpus."""

    manifest: str = "???"
    upstreams: list[str] = field(default_factory=list)  # NAME@random0: a random twin; ID@REVISION: of a hub id
    root: str = ""  # folder that `audio` is relative to; the manifest's own where empty
    kinds: list[str] = field(default_factory=list)  # cka, cca, norms, tsne; all that there are labels for where empty
    labels: list[str] = field(default_factory=list)  # columns; speaker, language, emotion where empty
    layer: str = ""  # of t-SNE; the best on dev where records say so, else the middle one, where empty
    frames: int = 20_000  # that CKA and norms are of, and the most segments of CCA
    utterances: int = 500  # of the sample
    seed: int = 0  # of all that is drawn
    precision: str = "fp32"  # bf16
    checkpoints: str = ""  # folder that official checkpoints lie in; the Hub where empty
    dtype: str = "float16"  # of stored frames: float32, int8
    device: str = "cpu"
    stores: str = "features"
    results: str = "results"


@dataclass
class Card:
    """The rows of one upstream for the Hugging Face Hub: a section of its model card, and files of `.eval_results`."""

    upstream: str = "???"  # as it stands on the boards
    datasets: list[str] = field(default_factory=list)  # CORPUS:ORGANISATION/NAME of corpora that are on the Hub
    out: str = ""  # folder; RESULTS/cards/UPSTREAM where empty
    results: str = "results"


@dataclass
class Report:
    """Records to leaderboard, figures and page."""

    results: str = "results"


@dataclass
class StoreCommand:
    """Work on a feature store."""

    store: str = "???"


@dataclass
class Doctor:
    """Versions, device, disk and what is missing."""

    stores: str = "features"
