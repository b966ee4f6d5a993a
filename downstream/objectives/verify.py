"""Same speaker or not: embeddings, and the cosine between two of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.downstream.metrics import equal_error_rate
from wavbench.downstream.objectives.looks import AnyRows, Rows, dev_look, test_look, whole_batch_loss
from wavbench.downstream.text import IGNORED, Vocabulary
from wavbench.upstream.errors import UserError


class Verify:
    """Same speaker or not: AM-softmax over train speakers, cosine of embeddings, equal error rate over trials.

    Args:
        targets: speaker of each row.
        train: rows of the speakers that are trained against.

    Source: Wang et al. 2018, Additive Margin Softmax, eq. 6; scale and margin as SUPERB's.
    """

    has_dev_loss = False
    train_loss = whole_batch_loss
    dev_look, test_look = dev_look, test_look
    SCALE, MARGIN = 30.0, 0.4

    def __init__(self, targets: Sequence[str], train: Rows, lengths=None, frame_rate: float = 0.0) -> None:
        self.trials: dict[
            str, tuple[Rows, Rows, np.ndarray]
        ] = {}  # by part: enroll rows, test rows, one speaker or two
        self.cohorts = np.empty((0, 0, 0))  # of each head that is tested; none until keep_cohort
        self.vocabulary = Vocabulary.of(targets[row] for row in train)
        if len(self.vocabulary) < 2:
            raise UserError(
                f"the train split has one speaker only: {self.vocabulary.symbols[0]!r}",
                remedy="give train utterances of two speakers or more: a voice is told from others",
            )
        self.outputs = len(self.vocabulary)
        index = {symbol: number for number, symbol in enumerate(self.vocabulary.symbols)}
        self.classes = torch.tensor([index.get(target, IGNORED) for target in targets])

    def check(self, rows: Rows, split: str) -> None:
        """Speakers of dev and test are new by design."""

    def loss(self, model, outputs: Float[Tensor, "heads batch dim"], rows: Rows, lengths) -> Float[Tensor, " heads"]:
        classes = self.classes[torch.from_numpy(rows)]
        cosines = F.normalize(model.trained(outputs), dim=2) @ F.normalize(
            model.stacked("speakers"), dim=1
        )  # (heads, batch, speakers)
        margins = F.one_hot(classes, self.outputs) * self.MARGIN
        logits = self.SCALE * (cosines - margins)
        classes = classes.expand(len(outputs), -1)
        return F.cross_entropy(logits.transpose(1, 2), classes, reduction="none").mean(dim=1)

    def decode(self, model, outputs: Float[Tensor, "heads batch dim"], rows: Rows, lengths) -> np.ndarray:
        return F.normalize(outputs, dim=2).numpy()

    def values(self, decoded: list[np.ndarray], rows: list[AnyRows]) -> Float[np.ndarray, " heads"]:
        tables = [self.scores(decoded, rows, head) for head in range(len(decoded[0]))]
        return np.array([equal_error_rate(t)[0] if np.isfinite(t["score"]).all() else 100.0 for t in tables])

    def scores(self, decoded: list[np.ndarray], rows: list[AnyRows], head: int) -> pd.DataFrame:
        row = np.concatenate(rows)
        embeddings = np.concatenate([batch[head] for batch in decoded])
        place = {r: k for k, r in enumerate(row.tolist())}
        enroll, test, target = next(t for t in self.trials.values() if t[0][0] in place)
        first, second = (np.array([place[r] for r in side]) for side in (enroll, test))
        scores = (embeddings[first] * embeddings[second]).sum(axis=1)
        table = pd.DataFrame({"row": enroll, "row_b": test, "score": scores, "target": target})
        if head < len(self.cohorts):
            table["score_snorm"] = s_norm(scores, embeddings, first, second, self.cohorts[head])
        return table

    def keep_cohort(self, decoded: list[np.ndarray], rows: list[AnyRows], speakers: Sequence[str]) -> None:
        """Take the mean embedding of each train speaker as the cohort that scores are normalised by.

        Args:
            decoded: embeddings of train rows by the heads that are tested.
            rows: which rows.
            speakers: of all rows of the table.
        """
        if len({speakers[row] for row in np.concatenate(rows)}) < 2:
            return  # no deviation to divide by
        names = np.array([speakers[row] for row in np.concatenate(rows)], object)
        embeddings = np.concatenate(decoded, axis=1)
        means = np.stack([embeddings[:, names == name].mean(axis=1) for name in sorted(set(names))], axis=1)
        self.cohorts = means / np.maximum(np.linalg.norm(means, axis=2, keepdims=True), 1e-12)


def s_norm(
    scores: Float[np.ndarray, " trials"],
    embeddings: Float[np.ndarray, "utterances dim"],
    first: Int[np.ndarray, " trials"],
    second: Int[np.ndarray, " trials"],
    cohort: Float[np.ndarray, "speakers dim"],
) -> Float[np.ndarray, " trials"]:
    """Scores by how each side of a trial scores against a cohort, the mean of both ways.

    Args:
        scores: cosine of each trial.
        embeddings: of unit length.
        first: which of them is one side of each trial.
        second: and which the other.
        cohort: unit embeddings of other speakers, two or more.

    Source: Shum et al. 2010, Unsupervised Speaker Adaptation based on the Cosine Similarity, equation 7.
    """
    centre = cohort.mean(axis=0)
    spread = (cohort - centre).T @ (cohort - centre) / len(cohort)
    # of an utterance against all of the cohort, whose scores would be gigabytes
    mean, variance = embeddings @ centre, ((embeddings @ spread) * embeddings).sum(axis=1)
    deviation = np.sqrt(np.maximum(variance, 1e-24))
    return ((scores - mean[first]) / deviation[first] + (scores - mean[second]) / deviation[second]) / 2
