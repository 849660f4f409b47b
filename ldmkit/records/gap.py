"""``Gap``: how far apart a CLIP's texts and pictures lie, in numbers and on two planes.

Captions and pictures are trained to point the same way, yet the two groups keep to places of their
own ("Mind the gap", Liang et al. 2022, arXiv 2203.02053). A decoder that learned from pictures'
embeddings is therefore at a loss with a text's: hence DALL-E 2's prior (arXiv 2204.06125).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmkit.records.display import drawn
from ldmkit.records.embedding import Embedding, check_same_space
from ldmkit.records.plane import Plane, units
from ldmkit.records.record import RecordError
from ldmkit.records.stats import Estimate, Table, Z, mean_of, wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Gap"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Gap:
    """Texts and pictures of one CLIP space, compared; shows itself as a table and a figure.

    As many texts as pictures are taken for pairs, each text the caption of its picture. All
    cosines and distances are between vectors of length 1.

    Attributes:
        texts: embeddings of texts, at least three.
        pictures: embeddings of pictures, at least three.

    Raises:
        RecordError: too few, of different models, or a zero vector.
    """

    texts: tuple[Embedding, ...]
    pictures: tuple[Embedding, ...]

    def __post_init__(self) -> None:
        for name in ("texts", "pictures"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not all(isinstance(point, Embedding) for point in getattr(self, name)):
                raise RecordError(f"{name} must be Embedding values; clip.gap encodes others.")
        units(self.texts)
        units(self.pictures)
        check_same_space(self.texts[0], self.pictures[0], "compared")

    @property
    def paired(self) -> bool:
        """Whether text i is taken for the caption of picture i."""
        return len(self.texts) == len(self.pictures)

    @cached_property
    def _rows(self) -> tuple[Float64, Float64]:
        return units(self.texts)[0], units(self.pictures)[0]

    @property
    def cosines(self) -> Float64:
        """(texts, pictures) cosine of every text with every picture."""
        texts, pictures = self._rows
        return np.clip(texts @ pictures.T, -1.0, 1.0)

    @cached_property
    def _measured(self) -> _Measures:
        return _jackknife(*self._rows, self.paired)

    @property
    def texts_within(self) -> Estimate:
        """Mean cosine of two different texts."""
        return self._measured.texts_within

    @property
    def pictures_within(self) -> Estimate:
        """Mean cosine of two different pictures."""
        return self._measured.pictures_within

    @property
    def between(self) -> Estimate:
        """Mean cosine of a text and a picture that is not its own."""
        return self._measured.between

    @property
    def distance(self) -> Estimate:
        """Distance of the two groups' middles: √(texts_within + pictures_within − 2 · between).

        Its square has no bias: points of one cloud are at 0 on average, however few they are.
        """
        return self._measured.distance

    @cached_property
    def own(self) -> Estimate:
        """Mean cosine of a text with its own picture; NaN without pairs."""
        texts, pictures = self._rows
        return mean_of((texts * pictures).sum(axis=1) if self.paired else [])

    @cached_property
    def told_apart(self) -> Estimate:
        """Share of points of which a flat border tells rightly: text or picture?

        The border is fitted to one half of the points (ridge regression) and asked about the
        other, both ways; 0.5 is guessing.
        """
        return _told_apart(*self._rows)

    @cached_property
    def mean(self) -> Embedding:
        """The mean picture less the mean text, at the lengths that CLIP gave them.

        ``text + gap.mean`` moves a text to where pictures are: the simplest stand-in for a prior.
        """
        groups = (
            np.stack([p.vector for p in points]).astype(np.float64).mean(axis=0)
            for points in (self.pictures, self.texts)
        )
        pictures, texts = groups
        model = self.texts[0].model or self.pictures[0].model
        return Embedding((pictures - texts).astype(np.float32), "the mean gap", "difference", model)

    @cached_property
    def planes(self) -> tuple[Plane, Plane]:
        """Where all points spread most (PCA), and the plane that shows the gap."""
        both = [*self.texts, *self.pictures]
        return Plane.fit(both), Plane.across(self.texts, self.pictures)

    @property
    def table(self) -> Table:
        """The numbers with their 95 % intervals."""
        rows = [
            ("cosine of a text and its own picture", self.own),
            ("cosine of a text and another picture", self.between),
            ("cosine of two texts", self.texts_within),
            ("cosine of two pictures", self.pictures_within),
            ("distance of the two middles", self.distance),
            ("told apart by a flat border", self.told_apart),
        ]
        return Table(
            ("what", "value", "low", "high"),
            tuple(
                {"what": what, "value": one.value, "low": one.low, "high": one.high}
                for what, one in rows
                if not math.isnan(one.value)
            ),
            caption=f"{len(self.texts)} texts, {len(self.pictures)} pictures; 95 % intervals",
            digits=dict.fromkeys(("value", "low", "high"), 3),
        )

    def figure(self) -> Figure:
        """Returns a matplotlib figure: both planes, and how the cosines are spread."""
        return drawn("gap", self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return drawn("gap's cell", self)

    def __repr__(self) -> str:
        return (
            f"Gap({len(self.texts)} texts, {len(self.pictures)} pictures of "
            f"{self.texts[0].model or 'an unnamed model'!r}, distance {self.distance})"
        )


class _Measures(NamedTuple):
    texts_within: Estimate
    pictures_within: Estimate
    between: Estimate
    distance: Estimate


def _measures(
    texts: Float64, pictures: Float64, counts: tuple[int, int], own: float, pairs: int
) -> Float64:
    """The four numbers, the distance squared, from the groups' sums.

    The square of a sum of n unit vectors is n, and the cosine of every pair of them twice.

    Args:
        texts: (d,) sum of the texts.
        pictures: (d,) sum of the pictures.
        counts: how many of each.
        own: sum of the cosines of pairs, which are left out of what is between.
        pairs: how many.
    """
    n, m = counts
    texts_within = (texts @ texts - n) / (n * (n - 1))
    pictures_within = (pictures @ pictures - m) / (m * (m - 1))
    between = (texts @ pictures - own) / (n * m - pairs)
    squared = texts_within + pictures_within - 2 * between
    return np.array([texts_within, pictures_within, between, squared])


def _jackknife(u: Float64, v: Float64, paired: bool) -> _Measures:
    """The four numbers ± 1.96 standard errors, by leaving out each point (or pair) once.

    Efron and Stein 1981, "The jackknife estimate of variance".
    """
    n, m, s, r = len(u), len(v), u.sum(axis=0), v.sum(axis=0)
    if paired:
        own = (u * v).sum(axis=1)
        total = float(own.sum())
        whole = _measures(s, r, (n, m), total, n)
        left_out = [
            [_measures(s - u[i], r - v[i], (n - 1, m - 1), total - own[i], n - 1) for i in range(n)]
        ]
    else:
        whole = _measures(s, r, (n, m), 0.0, 0)
        left_out = [
            [_measures(s - row, r, (n - 1, m), 0.0, 0) for row in u],
            [_measures(s, r - row, (n, m - 1), 0.0, 0) for row in v],
        ]
    variance = np.zeros(4)
    for group in left_out:
        values = np.array(group)
        variance += (len(values) - 1) * values.var(axis=0)
    half = Z * np.sqrt(variance)
    rows = np.stack([whole, whole - half, whole + half])
    rows[:, 3] = np.sqrt(rows[:, 3].clip(0))  # squared until now: near 0 that is the even measure
    return _Measures(*(Estimate(*map(float, column)) for column in rows.T))


def _told_apart(u: Float64, v: Float64) -> Estimate:
    """Even rows judge odd ones and the other way round; pairs stay in one half."""
    right = []
    for fitted, asked in ((0, 1), (1, 0)):
        rows = np.concatenate([u[fitted::2], v[fitted::2]])
        sides = np.concatenate([-np.ones(len(u[fitted::2])), np.ones(len(v[fitted::2]))])
        middle = rows.mean(axis=0)
        centred = rows - middle
        # Ridge of 1 % of the mean variance: there may be fewer points than dimensions.
        ridge = 0.01 * (centred**2).sum() / centred.shape[1]
        gram = centred.T @ centred + ridge * np.eye(centred.shape[1])
        border = np.linalg.solve(gram, centred.T @ (sides - sides.mean()))
        level = (centred @ border)[sides > 0].mean() + (centred @ border)[sides < 0].mean()
        for group, side in ((u, -1), (v, 1)):
            guesses = np.sign((group[asked::2] - middle) @ border - level / 2)
            right += [bool(guess == side) for guess in guesses]
    return Estimate(sum(right) / len(right), *wilson(sum(right), len(right)))
