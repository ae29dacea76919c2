"""What all estimators share: data in, one circuit per class trained as runs train it, answers out.

The circuit of an estimator that was fitted with labels is the mixture of one circuit per class,
weighted by their frequencies; the posterior of the component is the class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from pyjuice_bridge.circuit.combine import mixture
from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.codecs.table import TableCodec
from pyjuice_bridge.data.table import TableDataset
from pyjuice_bridge.data.table_codes import Coding, RawTable
from pyjuice_bridge.data.table_readers import from_frame, is_frame
from pyjuice_bridge.domains.base import Context, Tools
from pyjuice_bridge.domains.table import prepare
from pyjuice_bridge.engines import choose_engine, open_engine
from pyjuice_bridge.engines.evidence import check_rows
from pyjuice_bridge.errors import UserError, shown
from pyjuice_bridge.numbers import real
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.runner.arms import train_arm, trainings
from pyjuice_bridge.runner.config import make_config
from pyjuice_bridge.runner.start import OBJECT
from pyjuice_bridge.stages.progress import Reporter, pass_line, progress_console
from pyjuice_bridge.stages.store import Store

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.metrics import accuracy_score
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError:
    raise UserError(
        "Estimators need scikit-learn 1.6 or newer; install it with "
        "pip install 'pyjuice_bridge[sklearn]'."
    ) from None

CLASS = "class"
"""The latent whose value is the class."""
_LEAST = 10
"""From this number of rows on some are held out for validation."""


class DataError(UserError, ValueError):
    """Data or parameters that an estimator cannot use; also a ValueError, as in scikit-learn."""


class CircuitEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the estimators: a density of rows of categories, and a classifier if given labels.

    ``X`` holds whole numbers from 0 on, NaN or -1 where a value is missing; a data frame may also
    hold text and booleans, and its columns keep their names.  With ``bins`` columns may also hold
    measurements, NaN where one is missing.

    Attributes:
        circuit_: the trained circuit.
        model_: the circuit with its data's codec, for every other question.
        classes_: the labels, sorted; only after ``fit(X, y)``.
        history_: for every circuit that was trained the validation log-likelihood by pass, in nats
            per row.
        n_features_in_: number of columns.
        feature_names_in_: their names, where they have names.
    """

    _kind: str
    _least_columns = 1
    _restarts = 1
    bins: int | None = None
    _parts: list[Circuit]
    _coding: Coding

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train a circuit on the rows, or with labels one for every class.

        Args:
            X: rows [N, columns].
            y: labels [N]; None models the rows alone.

        Raises:
            ValueError: data or a parameter does not fit; one sentence.
        """
        try:
            return self._fit(X, y)
        except UserError as error:
            raise _as_value_error(error) from None

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Compute log p of every row, in nats; missing values are summed out.

        With measured columns it is a density over these.
        """
        model, rows = self._asked(X)
        density: NDArray[np.float64] = model.log_likelihood(rows) - model.codec.log_preimage(rows)
        return density

    def score(self, X: Any, y: Any = None) -> float:
        """Compute the mean log p of rows in nats; with labels the share of right predictions."""
        check_is_fitted(self)
        if y is None or not hasattr(self, "classes_"):
            return float(self.score_samples(X).mean())
        return float(accuracy_score(y, self.predict(X)))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute p(class | row) by Bayes' rule, float64 [N, classes]."""
        model, rows = self._asked(X)
        if not hasattr(self, "classes_"):
            raise DataError(
                f"{type(self).__name__} was fitted without labels; fit(X, y) learns classes."
            )
        if len(self.classes_) == 1:
            return np.ones((len(rows), 1))
        posterior = model.posteriors(rows)[CLASS][:, 0].astype(np.float64)
        total: NDArray[np.float64] = posterior / posterior.sum(axis=1, keepdims=True)
        return total

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of every row."""
        best = self.predict_proba(X).argmax(axis=1)
        classes: NDArray[Any] = self.classes_[best]
        return classes

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draw rows: codes int32 [n_samples, columns], a structured array if columns have names."""
        check_is_fitted(self)
        seed = check_random_state(random_state).randint(2**31 - 1)
        try:
            return self.model_.sample(n_samples, seed=int(seed))
        except UserError as error:
            raise _as_value_error(error) from None

    @property
    def circuit(self) -> Circuit:
        """The trained circuit."""
        check_is_fitted(self)
        return self.circuit_

    def save(self, path: str | Path) -> None:
        """Write the circuit to an HDF5 file, which ``pyjuice_bridge.load`` opens."""
        check_is_fitted(self)
        self.model_.save(path)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        tags.input_tags.positive_only = self.bins is None
        tags.input_tags.allow_nan = True
        tags.target_tags.required = False
        return tags

    def _circuit_section(self, folder: Path) -> dict[str, Any]:
        """Return the section of a run's config that describes the circuit."""
        raise NotImplementedError

    def _sizes(self, sizes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the number of values of every column, given those that X has."""
        return sizes

    def _clusters(self) -> int | None:
        """Return how many clusters distillation makes, None without distillation."""
        return None

    def _teacher(self, sizes: NDArray[np.int32]) -> object | None:
        """Return what takes the place of the kind's own teacher."""
        return None

    def _fit(self, X: Any, y: Any) -> Self:
        goes_on = self.warm_start and hasattr(self, "_parts")
        known: Any = getattr(self, "classes_", None)
        coding, rows = self._read(X, y, self._coding if goes_on else None)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if y is None:
            classes: Any = None
            parts, priors = [rows], np.ones(1)
        else:
            y = column_or_1d(y, warn=True)
            check_classification_targets(y)
            classes, labels = np.unique(y, return_inverse=True)
            priors = np.bincount(labels) / len(labels)
            parts = [rows[labels == k] for k in range(len(classes))]
        if goes_on and not np.array_equal(known, classes):
            raise DataError("y: with warm_start its classes must be those of the first fit.")
        starts = self._parts if goes_on else [None] * len(parts)
        with TemporaryDirectory(prefix="pyjuice_bridge-") as folder:
            trained = [
                self._trained(part, coding, seed, Path(folder), start)
                for part, start in zip(parts, starts, strict=True)
            ]
        self._parts, self._coding = [circuit for circuit, _ in trained], coding
        self.history_ = [history for _, history in trained]
        circuit = self._parts[0]
        if len(trained) > 1:
            circuit = mixture(self._parts, priors, latent=CLASS)
        meta = dict(circuit.meta)
        self.__dict__.pop("classes_", None)
        if classes is not None:
            self.classes_ = classes
            meta["classes"] = json.dumps(classes.tolist())
        self.circuit_ = replace(circuit, meta=meta)
        codec = TableCodec(coding.categories, coding.columns, coding.values, coding.edges)
        self.model_ = Model(self.circuit_, self._engine(), codec=codec)
        return self

    def _engine(self) -> Any:
        return open_engine(choose_engine(self.engine, self.device))

    def _trained(
        self,
        rows: NDArray[np.int32],
        coding: Coding,
        seed: int,
        folder: Path,
        start: Circuit | None,
    ) -> tuple[Circuit, list[float]]:
        """Train one circuit as a run does, keeping only it and its validation log-likelihoods."""
        train, valid = _held_out(rows, self.validation, seed)
        clusters = self._clusters()
        distilled = start is None and clusters is not None and len(train) >= clusters
        teacher = self._teacher(coding.categories) if distilled else None
        own = {} if teacher is None else {"teacher": {"kind": "object"}}
        try:
            first, last = self.step_size
        except (TypeError, ValueError):
            raise DataError(
                f"step_size is {shown(self.step_size)}, must be two numbers: of the first and the "
                "last mini-batch."
            ) from None
        values = {
            "name": "estimator",
            "seed": seed,
            "engine": self.engine,
            "device": self.device,
            "data": {"kind": "table", "name": "array"},
            "circuit": {"kind": self._kind, **self._circuit_section(folder)},
            "train": {
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "step_size": {"start": first, "end": last},
                "pseudocount": self.pseudocount,
                "patience": self.patience,
                "start": None if start is None else OBJECT,
            },
            "cluster": {"restarts": self._restarts},
            "arms": ["lvd" if distilled else "random" if start is None else "start"],
            **own,
        }
        config = make_config(_plain(values), type(self).__name__)
        none = np.empty((0, rows.shape[1]), np.int32)
        table = TableDataset(
            "array",
            coding.columns,
            coding.categories,
            train,
            valid,
            none,
            coding.values,
            coding.edges,
        )
        console = progress_console() if self.verbose else None
        with Reporter(console) as reporter:
            store = Store(folder, reporter=reporter)
            tools = Tools(config, self._engine(), store, reporter)
            context = Context(**vars(tools), data=prepare(table), teacher=teacher, start=start)
            (training,) = trainings(context)
            done = train_arm(training, lambda row, _: reporter.say(pass_line(row)))
        return done.circuit(), [epoch["valid"] for epoch in done.artifact.info["history"]]

    def _read(self, X: Any, y: Any, known: Coding | None) -> tuple[Coding, NDArray[np.int32]]:
        """Learn the values of every column, unless they are known; return them and the codes."""
        least = self._clusters() or 1
        if is_frame(X):
            validate_data(self, X, y, skip_check_array=True)
            raw = from_frame(X)
        else:
            asked = {
                "ensure_all_finite": "allow-nan",
                "ensure_min_samples": least,
                "ensure_min_features": self._least_columns,
            }
            X = (
                validate_data(self, X, **asked)
                if y is None
                else validate_data(self, X, y, **asked)[0]
            )
            raw = RawTable(None, list((_codes(X) if self.bins is None else X).T))
        if known is not None:
            names = known.columns or tuple(f"x{i}" for i in range(len(known.categories)))
            return known, replace(known, columns=names).encode(raw, "X")
        coding = Coding.of(raw, "X", self.bins)
        if self.categories is not None:
            sizes = np.asarray(self.categories)
            try:
                wide = np.broadcast_to(sizes, coding.categories.shape).astype(np.int32)
            except ValueError:
                raise DataError(
                    f"categories: expected a number, or one for each of {len(coding.columns)} "
                    "columns."
                ) from None
            measured = np.isin(np.arange(len(wide)), list(coding.edges))
            wide = np.where(measured, coding.categories, wide)
            if sizes.dtype.kind not in "iu" or (wide < coding.categories).any():
                raise DataError("categories: fewer than the values in X, or no whole numbers.")
            coding = replace(coding, categories=wide)
        coding = replace(coding, categories=self._sizes(coding.categories))
        rows = coding.encode(raw, "X")
        if raw.names is None:
            coding = replace(coding, columns=())
        return coding, rows

    def _asked(self, X: Any) -> tuple[Model, NDArray[Any]]:
        """Return the model and rows of codes that a question is about."""
        check_is_fitted(self)
        model: Model = self.model_
        if is_frame(X):
            validate_data(self, X, reset=False, skip_check_array=True)
            named = {str(name): X[name] for name in X.columns}
            X = named if getattr(model.codec, "columns", ()) else X.to_numpy()
        else:
            X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
            X = X.astype(np.float64) if self._coding.edges else _codes(X)
        try:
            return model, check_rows(model.circuit, model.codec.encode(X, "X"), "X")
        except UserError as error:
            raise _as_value_error(error) from None


def _codes(X: NDArray[Any]) -> NDArray[Any]:
    """Return ``X``; refuse negative numbers, but for those that mark a missing value."""
    if (X < MISSING).any():
        raise DataError(
            "Negative values in data passed to an estimator of categories: values are 0, 1, 2 …, "
            "NaN (or -1) where one is missing; set 'bins' for measurements."
        )
    return X


def _held_out(
    rows: NDArray[np.int32], share: float, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Split rows for training and validation; a few rows are for both."""
    share = real("validation", share, Interval(gt=0, lt=1))
    if len(rows) < _LEAST:
        return rows, rows
    order = np.random.default_rng(seed).permutation(len(rows))
    count = min(max(1, round(share * len(rows))), len(rows) - 1)
    return rows[np.sort(order[count:])], rows[np.sort(order[:count])]


def _plain(value: Any) -> Any:
    """Return NumPy's numbers as Python's, in nested dictionaries."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _as_value_error(error: UserError) -> DataError:
    return error if isinstance(error, DataError) else DataError(str(error))
