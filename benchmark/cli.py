"""The `wavbench` command: words in, exit code out (0 well, 1 some cells failed, 2 bad input, 130 interrupted)."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence

from wavbench.upstream.errors import UserError, closest

USAGE = """wavbench: layer-wise benchmark of speech representations

  wavbench demo                                              five tasks on the built-in corpus, then the page
  wavbench extract upstream=NAME manifest=FILE               features to HDF5  [layers=all|4,8] [pool=none|mean]
  wavbench run task=NAME upstream=NAME manifest=FILE         one cell  [layers=mix|all|6] [head=NAME] [save=FOLDER]
  wavbench sweep experiment=NAME                             many cells, resumable  [workers=N] [root=FOLDER] [--dry]
  wavbench status experiment=NAME                            its cells: done, running, failed, to do
  wavbench pretrain objective=hubert|wav2vec2|... manifest=FILE  train an upstream  [preset=tiny|small|base|large]
  wavbench finetune task=asr|pr upstream=NAME manifest=FILE  head and upstream  [labels=10min] [adaptation=lora]
  wavbench lm text=FILE|manifest=FILE out=FILE.arpa          a language model  [kind=ngram|transformer] [order=4]
  wavbench release run=FOLDER name=PRESET licence=...        its checkpoint in fp16 with a model card
  wavbench export upstream=NAME to=hf:FOLDER                 a folder that transformers opens, with a model card
  wavbench speed upstream=NAME                               forward passes against other toolkits  [peers=A,B]
  wavbench transcribe | classify | translate AUDIO… head=F   a trained head on files  [json=true]
  wavbench verify A B head=FOLDER                            how alike two voices are
  wavbench analyse manifest=FILE upstreams=A,B               layers: CKA, CCA with labels, norms, t-SNE  [kinds=cka,cca]
  wavbench report                                            leaderboard .csv .md .html and figures
  wavbench card upstream=NAME [datasets=CORPUS:ORG/NAME]     its rows for a page of the Hugging Face Hub
  wavbench corpus list | fetch NAME ROOT | import NAME ROOT  data sets of the field, to manifests
  wavbench corpus build NAME | check MANIFEST                the built-in corpus; every bad row  [mended=FILE]
  wavbench store info PATH | verify PATH | seal PATH         feature stores
  wavbench doctor                                            versions, device, disk, extras

A preset without weights here runs as a random twin: weights=random seed=0.
Records go to results=FOLDER, feature stores to stores=FOLDER; `wavbench COMMAND --help` lists a command's keys.
"""
FLAGS = {"--dry": "dry=true", "--retry-failed": "retry_failed=true"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; user errors become one screen and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # here, where a reader that went away is no error
        return code
    except UserError as error:
        print(error.screen(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        words = shlex.join(["wavbench", *arguments])
        print(f"\ninterrupted; nothing is lost. To go on where this stopped:\n  {words}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `wavbench ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a folder without permission, a disk that is full, a name that is a file already
        remedy = "check the path, its permissions and the free disk space; the same command goes on where this stopped"
        what = f"the system refuses: {error.strerror or error}"
        print(UserError(what, where=error.filename or "", remedy=remedy).screen(), file=sys.stderr)
        return 2


def _dispatch(arguments: list[str]) -> int:
    # waiting threads sleep instead of spinning: on a shared machine spinning costs others and us twentyfold
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not arguments or arguments[0] in ("help", "--help", "-h"):
        print(USAGE, end="")
        return 0
    if arguments[0] == "--version":
        from wavbench import __version__

        print(f"wavbench {__version__}")
        return 0
    from wavbench.benchmark import (
        commands,
        config,
        corpora,
        corpus_schemas,
        experiment,
        inference,
        language_models,
        schemas,
    )

    table: dict[str, tuple[type, tuple[str, ...], Callable[[object], int]]] = {
        "extract": (schemas.Extract, (), commands.extract),
        "run": (schemas.Run, (), commands.run),
        "sweep": (schemas.Sweep, (), experiment.sweep),
        "status": (schemas.Sweep, (), experiment.status),
        "demo": (schemas.Demo, (), commands.demo),
        "pretrain": (schemas.Pretrain, (), commands.pretrain),
        "finetune": (schemas.Finetune, (), commands.finetune),
        "lm": (schemas.Lm, (), language_models.lm),
        "release": (schemas.Release, (), commands.release),
        "export": (schemas.Export, (), commands.export),
        "speed": (schemas.Speed, (), commands.speed),
        "analyse": (schemas.Analyse, (), commands.analyse),
        "card": (schemas.Card, (), commands.card),
        "report": (schemas.Report, (), commands.report),
        "corpus list": (corpus_schemas.CorpusList, ("name",), corpora.corpus_list),
        "corpus fetch": (corpus_schemas.CorpusFetch, ("name", "root"), corpora.corpus_fetch),
        "corpus import": (corpus_schemas.CorpusImport, ("name", "root"), corpora.corpus_import),
        "corpus build": (corpus_schemas.CorpusBuild, ("name",), corpora.corpus_build),
        "corpus check": (corpus_schemas.CorpusCheck, ("manifest",), corpora.corpus_check),
        "store info": (schemas.StoreCommand, ("store",), commands.store_info),
        "store verify": (schemas.StoreCommand, ("store",), commands.store_verify),
        "store seal": (schemas.StoreCommand, ("store",), commands.store_seal),
        "transcribe": (schemas.Infer, ("audio",), inference.transcribe),
        "classify": (schemas.Infer, ("audio",), inference.classify),
        "verify": (schemas.Infer, ("audio",), inference.verify),
        "translate": (schemas.Infer, ("audio",), inference.translate),
        "doctor": (schemas.Doctor, (), commands.doctor),
    }
    words = 2 if arguments[0] in ("corpus", "store") else 1
    name = " ".join(arguments[:words])
    if name not in table:
        near = [known for known in table if known.startswith(f"{arguments[0]} ")]
        remedy = f"one of: {', '.join(near)}" if near else closest(name, list(table))
        raise UserError(f"there is no command {name!r}", remedy=remedy)
    schema, positional, command = table[name]
    rest = [FLAGS.get(word, word) for word in arguments[words:]]
    if name == "pretrain":
        from wavbench.benchmark import pretraining

        schema = pretraining.schema(next((word[10:] for word in rest if word.startswith("objective=")), ""))
    if name == "corpus import":
        schema = corpora.import_schema(
            next((word for word in rest if "=" not in word and not word.startswith("-")), "")
        )
    if "--help" in rest or "-h" in rest:
        print(_help(name, schema, positional), end="")
        return 0
    if name == "pretrain":
        return command(pretraining.compose(rest))
    return command(config.compose(schema, rest, positional))


def _help(name: str, schema: type, positional: tuple[str, ...]) -> str:
    from dataclasses import fields

    lines = [f"wavbench {name}: {(schema.__doc__ or '').strip()}", ""]
    for item in fields(schema):
        default = "" if callable(item.default_factory) else item.default
        what = "needed" if default == "???" else f"default {default!r}"
        place = " (or the word behind the command)" if item.name in positional else ""
        lines.append(f"  {item.name}=  {what}{place}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
