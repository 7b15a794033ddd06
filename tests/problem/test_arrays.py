"""What users have as inputs and targets: each kind is served, or refused with one error and the cure."""

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits
from torch import nn

import evoprune as ep
from evoprune.errors import InputError
from evoprune.problem.arrays import require_finite
from evoprune.problem.data import content_digest, count_classes

X = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
Y = np.arange(60) % 3
WORDS = np.array(["ant", "bee", "cat"])[Y]
NAMES = ("ant", "bee", "cat")
FRAME = pd.DataFrame(X, columns=list("abcdef"))
WHOLE = (FRAME * 10).astype(int)
NUMBERS = pd.Series(Y)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


SERVED_INPUTS: dict[str, tuple[Any, Any]] = {
    "frame": (FRAME, X),
    "frame of float64": (FRAME.astype(float), X),
    "frame of integers": (WHOLE, WHOLE.to_numpy()),
    "frame of booleans": (FRAME > 0, X > 0),
    "frame of several types": (FRAME.assign(a=FRAME.a > 0, b=WHOLE.b.astype("int8")), None),
    "frame of nullable integers": (WHOLE.astype("Int64"), WHOLE.to_numpy()),
    "frame of numbered columns": (pd.DataFrame(X), X),
    "frame of another index": (FRAME.set_index(FRAME.index + 7), X),
    "sparse frame": (FRAME.astype(pd.SparseDtype("float32", 0)), X),
    "objects": (FRAME.assign(a=FRAME.a > 0).astype(object).to_numpy(), None),
    "float16": (X.astype("f2"), X.astype("f2")),
    "bfloat16": (torch.from_numpy(X).bfloat16(), None),
    "long double": (X.astype(np.longdouble), X),
    "uint8": ((abs(X) * 9).astype("u1"), (abs(X) * 9).astype("u1")),
    "uint16": ((abs(X) * 9999).astype("u2"), (abs(X) * 9999).astype("u2")),
    "uint32": ((abs(X) * 1e6).astype("u4"), (abs(X) * 1e6).astype("u4")),
    "uint64": ((abs(X) * 9).astype("u8"), (abs(X) * 9).astype("u8")),
    "uint16 tensor": (torch.from_numpy((abs(X) * 9).astype("u2")), (abs(X) * 9).astype("u2")),
    "booleans": (X > 0, X > 0),
    "Fortran order": (np.asfortranarray(X), X),
    "negative strides": (X[::-1, ::-1], X[::-1, ::-1]),
    "big-endian": (X.astype(">f4"), X),
    "read-only": (read_only(X), X),
    "masked nowhere": (np.ma.masked_less(X, -99), X),
    "list of lists": (X.tolist(), X),
    "list of arrays": (list(X), X),
    "list of tensors": (list(torch.from_numpy(X)), X),
    "tuple of tuples": (tuple(map(tuple, X.tolist())), X),
    "with gradients": (torch.from_numpy(X).requires_grad_(), X),
    "parameter": (nn.Parameter(torch.from_numpy(X)), X),
}


@pytest.mark.sampled(22)
@pytest.mark.parametrize(("given", "wanted"), SERVED_INPUTS.values(), ids=SERVED_INPUTS.keys())
def test_inputs_are_served(given: Any, wanted: Any) -> None:
    x = ep.Data(train=(given, Y)).train[0]
    assert x.is_contiguous()
    assert type(x) is torch.Tensor or not x.requires_grad
    if isinstance(given, pd.DataFrame):
        assert x.is_floating_point()
    if wanted is not None:
        np.testing.assert_array_equal(x.double().numpy(), wanted.astype(float))
    problem = ep.Problem("mlp", ep.Data(train=(given, Y)), widths=(4,))
    assert problem.data.train[0].dtype == torch.float32


REFUSED_INPUTS: dict[str, tuple[Any, str]] = {
    "text column": (FRAME.assign(b="x"), r"column 'b' of the type (str|object|string).*select_dtypes"),
    "mixed column": (FRAME.assign(b=[1, "x"] * 30), r"column 'b' of the type object.*get_dummies"),
    "dates": (FRAME.assign(c=pd.Timestamp("2020")), r"column 'c' of the type datetime64.*dates: give their distance"),
    "dates with a zone": (FRAME.assign(c=pd.Timestamp("2020", tz="UTC")), "column 'c' of the type datetime64.*UTC"),
    "durations": (FRAME.assign(c=pd.Timedelta("1D")), "column 'c' of the type timedelta64.*total_seconds"),
    "categories": (FRAME.assign(c=pd.Categorical(["u", "v"] * 30)), "column 'c' of the type category"),
    "complex column": (FRAME.assign(c=1j), "column 'c' of the type complex128"),
    "scipy matrix": (sp.csr_matrix(X), r"a sparse csr_matrix; expected a dense array: give x.toarray\(\)"),
    "scipy array": (sp.coo_array(X), r"a sparse coo_array.*x.toarray\(\)"),
    "sparse tensor": (torch.from_numpy(X).to_sparse(), r"sparse.*to_dense\(\)"),
    "complex": (X.astype("c8"), "complex64; expected real numbers.*view_as_real"),
    "complex tensor": (torch.complex(torch.from_numpy(X), torch.from_numpy(X)), "complex64.*view_as_real"),
    "fields": (np.zeros(60, [("a", "f4"), ("b", "f4")]), "structured_to_unstructured"),
    "text": (X.astype(str), r"have '.*' \(str\) at \[0, 0\]; expected numbers"),
    "objects": (FRAME.assign(b="x").to_numpy(), r"have 'x' \(str\) at \[0, 1\]; expected numbers"),
    "None": (np.where(X > 2, None, X), r"have None \(NoneType\) at \[13, 1\].*fill in"),
    "ragged": ([[1.0] * 5] * 59 + [[1.0]], "expected numbers"),
    "arrays of two lengths": ([*X[:59], X[59, :2]], "a list whose items differ in shape"),
    "masked": (np.ma.masked_less(X, -2), r"masked values.*x.filled\(...\)"),
    "datetimes": (np.full((60, 6), np.datetime64("2020")), "datetime64"),
    "series": (FRAME.a, r"inputs \(60,\).*a single feature is x\[:, None\]"),
    "no columns": (FRAME[[]], r"inputs \(60, 0\).*n > 0"),
    "dictionary": ({"a": X}, "train inputs are dict; expected a tensor, array, data frame or list"),
    "generator": ((row for row in X), "train inputs are generator"),
    "large uint64": (np.full((60, 6), 2**63, np.uint64), "which no 64-bit integer holds"),
}


@pytest.mark.parametrize(("given", "said"), REFUSED_INPUTS.values(), ids=REFUSED_INPUTS.keys())
def test_inputs_are_refused_with_the_cure(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        ep.Data(train=(given, Y))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("train ")


SERVED_LABELS: dict[str, tuple[Any, tuple[str, ...] | None]] = {
    "series": (NUMBERS, None),
    "series of another index": (NUMBERS.set_axis(range(7, 67)), None),
    "nullable": (NUMBERS.astype("Int64"), None),
    "frame": (pd.DataFrame({"y": Y}), None),
    "list": (Y.tolist(), None),
    "uint64": (Y.astype("u8"), None),
    "big-endian": (Y.astype(">i8"), None),
    "words": (WORDS, NAMES),
    "list of words": (WORDS.tolist(), NAMES),
    "bytes": (WORDS.astype("S"), NAMES),
    "objects": (WORDS.astype(object), NAMES),
    "column of words": (WORDS[:, None], NAMES),
    "series of words": (pd.Series(WORDS), NAMES),
    "string series": (pd.Series(WORDS).astype("string"), NAMES),
    "frame of words": (pd.DataFrame({"y": WORDS}), NAMES),
    "index": (pd.Index(WORDS), NAMES),
    "categories": (pd.Series(WORDS).astype("category"), NAMES),
    "categorical": (pd.Categorical(WORDS, ["cat", "bee", "ant", "none"]), NAMES),
    "categories of numbers": (pd.Series(Y * 4 + 7).astype("category"), ("7", "11", "15")),
    "objects that are numbers": ((Y * 4 + 7).astype(object), ("7", "11", "15")),
}


@pytest.mark.parametrize(("given", "classes"), SERVED_LABELS.values(), ids=SERVED_LABELS.keys())
def test_labels_are_served_and_their_names_kept(given: Any, classes: tuple[str, ...] | None) -> None:
    data = ep.Data(train=(X, given))
    assert data.train[1].dtype == torch.int64
    assert data.train[1].tolist() == Y.tolist()
    assert data.classes == data.split(0).to("cpu").classes == classes
    problem = ep.Problem("mlp", data, widths=(4,))
    assert problem.is_classification
    assert problem.data.classes == classes
    assert problem.network()[-1].out_features == 3


BOOLEANS = {
    "array": Y > 0,
    "list": (Y > 0).tolist(),
    "series": NUMBERS > 0,
    "nullable": (NUMBERS > 0).astype("boolean"),
    "objects": (Y > 0).astype(object),
    "tensor": torch.from_numpy(Y > 0),
}


@pytest.mark.parametrize("given", BOOLEANS.values(), ids=BOOLEANS.keys())
def test_false_and_true_are_0_and_1(given: Any) -> None:
    data = ep.Data(train=(X, given), test=(X, np.ones(60, bool)))
    assert data.train[1].tolist() == (Y > 0).astype(int).tolist()
    assert data.classes == ("False", "True")
    assert set(data.test[1].tolist()) == {1}


REFUSED_TARGETS: dict[str, tuple[Any, str]] = {
    "None": (["a", None, "b"] * 20, r"20 missing labels among 60, the first at \[1\]"),
    "NaN": (["a", float("nan"), "b"] * 20, "20 missing labels"),
    "NA": (NUMBERS.astype("Int64").where(NUMBERS > 0), r"20 missing labels among 60, the first at \[0\]"),
    "boolean NA": ((NUMBERS > 0).astype("boolean").where(NUMBERS > 0), "20 missing labels"),
    "categories": (pd.Series(WORDS).where(NUMBERS > 0).astype("category"), "20 missing labels"),
    "mixed": (["a", 1, "b"] * 20, r"labels of type int, str; expected all words or all integers: give y.astype\(str\)"),
    "booleans and words": (["a", True] * 30, "mix True and False with other labels"),
    "columns of words": (np.stack([WORDS, WORDS], 1), r"words of the shape \(60, 2\); expected one label an example"),
    "frame of words": (pd.DataFrame({"y": WORDS, "z": WORDS}), "column 'y'"),
    "dates": (pd.Series(pd.date_range("2020", periods=60)), "datetime64.*dates: give"),
    "durations": (pd.Series(pd.to_timedelta(Y, unit="D")), "timedelta64.*total_seconds"),
    "intervals": (pd.cut(pd.Series(X[:, 0]), 3), "labels of type Interval"),
    "bytes objects": ([b"a", b"b", b"c"] * 20, "labels of type bytes"),
    "complex": (Y * 1j, "complex128"),
    "sparse": (sp.csr_matrix(Y[:, None]), r"give y.toarray\(\)"),
    "one word": (["a"] * 60, "targets that are all 'a'; expected two classes"),
}


@pytest.mark.parametrize(("given", "said"), REFUSED_TARGETS.values(), ids=REFUSED_TARGETS.keys())
def test_targets_are_refused_with_the_cure(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        ep.Data(train=(X, given))
    assert "\n" not in str(error.value)


def test_regression_targets_keep_their_shape() -> None:
    x = X[:, :1]
    for given, shape in (
        (pd.Series(X[:, 0]), (60,)),
        (pd.DataFrame(x), (60, 1)),
        (FRAME, (60, 6)),
        (FRAME.astype("Float64").where(FRAME < 2), (60, 6)),
        (pd.Series(X[:, 0]).astype(object), (60,)),
    ):
        y = ep.Data(train=(X, given)).train[1]
        assert y.is_floating_point()
        assert tuple(y.shape) == shape
    assert ep.Data(train=(X, WHOLE)).train[1].dtype == torch.int64


# All parts together


def of(**parts: Any) -> ep.Data:
    return ep.Data(train=(X, parts.pop("train", WORDS)), **{part: (X[: len(y)], y) for part, y in parts.items()})


def test_classes_are_numbered_over_all_parts() -> None:
    data = of(test=["cat", "ant"], validation=["bee", "bee"])
    assert (data.test[1].tolist(), data.validation[1].tolist()) == ([2, 0], [1, 1])
    assert data.with_parts({"test": (X[:2], ["bee", "cat"])}).test[1].tolist() == [1, 2]
    assert of(train=[str(y) for y in Y * 5]).classes == ("0", "10", "5")  # words are sorted as words


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"test": ["dog", "ant"]}, "test targets have the class 'dog', which train has not; expected 'ant', 'bee', 'cat'"),
        ({"validation": [0, 1]}, "validation targets are numbers, those of train are words"),
        ({"train": Y, "test": ["ant", "bee"]}, "train targets are numbers, those of test are words"),
        ({"train": Y, "test": np.zeros(9)}, r"test has targets that are floats \[n\], train has labels \[n\]"),
        ({"train": X[:, :1], "test": X[:, 0]}, r"test .* floats \[n\], train has floats \[n, 1\].*give y.reshape\(-1, 1\)"),
    ],
)
def test_parts_of_different_kinds_are_refused(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        of(**parts)


def test_parts_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"test has inputs \(60, 5\), train has \(60, 6\)"):
        ep.Data(train=(X, Y), test=(X[:, :5], Y))


def test_parts_of_another_scale_are_refused_for_a_model_by_name() -> None:
    raw = (abs(X) * 99).astype(np.uint8)
    assert ep.Problem("mlp", ep.Data(train=(raw, Y), test=(raw, Y)), widths=(4,)).is_classification
    with pytest.raises(InputError, match=r"test inputs are torch\.float32, train inputs torch\.uint8"):
        ep.Problem("mlp", ep.Data(train=(raw, Y), test=(X, Y)), widths=(4,))


def test_names_of_classes_may_be_given() -> None:
    data = ep.Data(train=(X, Y), classes=NAMES)
    assert data.with_parts({"test": (X[:1], ["cat"])}).test[1].tolist() == [2]
    assert ep.Data(train=(X, Y > 0), classes=["no", "yes"]).classes == ("no", "yes")
    for classes, said in ((("a", "b"), "labels from 0 to 2; expected 0 to 1"), (("a", "b", "a"), "expected every name once")):
        with pytest.raises(InputError, match=said):
            ep.Data(train=(X, Y), classes=classes)
    with pytest.raises(InputError, match="train targets have the class 'cat'; expected one of 'ant', 'bee'"):
        ep.Data(train=(X, WORDS), classes=("ant", "bee"))


def test_names_of_classes_are_content() -> None:
    assert content_digest(of()) != content_digest(ep.Data(train=(X, Y)))
    assert content_digest(of()) == content_digest(ep.Data(train=(X, pd.Series(WORDS).astype("category"))))
    assert content_digest(of()) != content_digest(of(train=np.array(["ant", "bee", "dog"])[Y]))


# How many classes


@pytest.mark.parametrize(("labels", "classes"), [(Y, 3), (Y + 1, 4), (Y * 2, 5), (Y * 40, 81), (np.arange(60) * 9, 532)])
def test_small_gaps_between_labels_pass(labels: np.ndarray, classes: int) -> None:
    assert count_classes(ep.Data(train=(X, labels))) == classes


@pytest.mark.parametrize("labels", [Y - 1, np.where(Y, Y, -100), np.where(Y, Y, 10**6), Y + 2019, np.where(Y, Y, 255)])
def test_labels_far_beyond_the_number_of_classes_are_refused(labels: np.ndarray) -> None:
    said = r"targets are 3 different integers from -?\d+ to \d+, thus class labels; expected 0 to 2: give numpy.unique"
    with pytest.raises(InputError, match=said):
        ep.Problem("mlp", ep.Data(train=(X, labels)))


def test_an_autoencoder_does_not_look_at_labels() -> None:
    assert ep.Problem("autoencoder", ep.Data(train=(X, Y + 2019)), widths=(4,)).loss_name == "reconstruction"


# As scikit-learn users have it


def test_fetch_openml_like_data_give_what_arrays_give() -> None:
    x, y = load_digits(return_X_y=True)
    plain = ep.Problem("mlp", ep.Data(train=(x, y)), widths=(8,))
    frames = load_digits(as_frame=True)
    for inputs, labels in (
        (pd.DataFrame(x), pd.Series(y)),
        (frames.data, frames.target),
        (x, y.astype(str)),
        (frames.data, pd.Series(y.astype(str)).astype("category")),
    ):
        problem = ep.Problem("mlp", ep.Data(train=(inputs, labels)), widths=(8,))
        assert all(
            torch.equal(a, b)
            for pair, other in zip(problem.data.parts().values(), plain.data.parts().values(), strict=True)
            for a, b in zip(pair, other, strict=True)
        )
    with pytest.raises(InputError, match=r"train targets are float32.*y.long\(\) \(y.astype\(int\)\)"):
        ep.Problem("mlp", ep.Data(train=(x, y.astype(float))), widths=(8,))


@pytest.mark.process
def test_no_import_of_pandas_for_arrays() -> None:
    code = """if True:
        import sys, numpy as np, evoprune as ep
        ep.Data(train=(np.zeros((4, 2)), ["a", "b", "a", "b"])).split(0, 0.25, 0.25)
        sys.exit("pandas" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_a_read_only_array_gives_no_warning_and_is_not_changed() -> None:
    given = read_only(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ep.Data(train=(given, Y))
    data.train[0].zero_()
    assert np.array_equal(given, X)


# Finite values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_counted_and_the_first_is_named(dtype: torch.dtype, value: float) -> None:
    values = torch.from_numpy(X).to(torch.float32)
    values[3, 4] = values[7, 0] = value
    with pytest.raises(InputError, match=r"x have 2 NaN or infinite values among 360, the first at \[3, 4\]"):
        require_finite(values.to(dtype), "x", torch.float32)


def test_missing_values_may_be_let_pass_but_not_infinite_ones() -> None:
    values = torch.tensor([1.0, float("nan"), float("inf")])
    require_finite(values[:2], "y", torch.float32, missing=True)
    with pytest.raises(InputError, match=r"y have 1 NaN or infinite value among 3, the first at \[2\]"):
        require_finite(values, "y", torch.float32, missing=True)


def test_what_a_type_cannot_hold_is_said() -> None:
    values = torch.tensor([1.0, 1e300], dtype=torch.float64)
    require_finite(values, "x", torch.float64)
    with pytest.raises(InputError, match=r"x have 1 value too large for float32 among 2, the first at \[1\].*dtype='float64'"):
        require_finite(values, "x", torch.float32)
