"""Values that are typed in half, or as in other programs: the message names the value, the expected ones and the cure."""

import pytest

from evoprune.cli.forms import parse, script
from evoprune.errors import InputError
from evoprune.problem.augmentation import find_augmentations
from evoprune.problem.learning_rates import LEARNING_RATES
from evoprune.problem.load import load_raw
from evoprune.problem.metrics import METRICS, find_metrics, stopping_of
from evoprune.problem.models import MODELS
from evoprune.problem.optimizers import OPTIMIZERS
from evoprune.problem.options import ProblemOptions
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

FINDERS = {
    "augmentation": find_augmentations,
    "schedule": LEARNING_RATES.find,
    "model": MODELS.find,
    "optimizer": OPTIMIZERS.find,
    "metric": METRICS.find,
    "data set": load_raw,
}


@pytest.mark.parametrize(
    ("kind", "typed", "meant"),
    [
        ("augmentation", "crop", "crop:4"),
        ("augmentation", "crop4", "crop:4"),
        ("augmentation", "flips", "flip"),
        ("augmentation", "RandomCrop", "crop:4"),
        ("augmentation", "horizontal_flip", "flip"),
        ("schedule", "one_cycle", "one-cycle"),
        ("schedule", "OneCycle", "one-cycle"),
        ("schedule", "step", "milestones"),
        ("schedule", "MultiStepLR", "milestones"),
        ("model", "ResNet20", "resnet-20"),
        ("model", "VGG11_BN", "vgg-11-bn"),
        ("optimizer", "sgd", "SGD"),
        ("optimizer", "adamw", "AdamW"),
        ("metric", "F1", "f1"),
        ("metric", "top_5", "top-5"),
        ("data set", "CIFAR-10", "cifar10"),
        ("data set", "FashionMNIST", "fashion-mnist"),
        ("data set", "fmnist", "fashion-mnist"),
    ],
)
def test_names_lead_to_those_that_are_meant(kind, typed, meant):
    with pytest.raises(InputError, match=f"unknown {kind} '{typed}'; expected one of: .*Did you mean '{meant}'"):
        FINDERS[kind](typed)


def test_several_changes_in_one_word_are_told_apart():
    with pytest.raises(InputError, match=r"augment is 'crop:4,flip'; expected a number .* with blanks .*, such as crop:4 flip"):
        find_augmentations("crop:4,flip")


@pytest.mark.parametrize(
    ("stop_by", "said"),
    [
        ("accuracy", "unknown stop_by 'accuracy'.* Did you mean 'validation_accuracy'"),
        ("acc", "Did you mean 'validation_accuracy'"),
        ("loss", "Did you mean 'validation_loss'"),
        ("ece", "Did you mean 'validation_ece'"),
        ("validation-ece", "Did you mean 'validation_ece'"),
        ("f1", "the metric 'f1' is not measured; expected one of: .*Give metrics='f1' .*, too, and stop_by='validation_f1'"),
        ("validation_f1", "the metric 'f1' is not measured.*Give metrics='f1'"),
    ],
)
def test_stop_by_names_the_column_that_is_meant(stop_by, said):
    with pytest.raises(InputError, match=said):
        stopping_of(Problem("mlp", "digits", Recipe(stop_patience=1, stop_by=stop_by), widths=(4,), metrics=("ece",)))


@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_metrics_that_are_recorded_anyway_are_to_be_left_out(name):
    with pytest.raises(InputError, match=f"metric '{name}' .*have loss and accuracy anyway; leave it out"):
        find_metrics({name: lambda outputs, targets: 0.0})


@pytest.mark.parametrize("base", ["here", "data_dir", "environment"])
@pytest.mark.parametrize("name", ["pets", "sub/pets", "pets.zip"])
def test_a_folder_of_images_needs_its_kind(tmp_path, monkeypatch, base, name):
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    path = tmp_path / "base" / name
    (path.parent if name.endswith(".zip") else path).mkdir(parents=True)
    path.is_dir() or path.write_bytes(b"")
    monkeypatch.chdir(tmp_path / "base" if base == "here" else tmp_path)
    if base == "environment":
        monkeypatch.setenv("EVOPRUNE_DATA", str(tmp_path / "base"))
    with pytest.raises(InputError, match=f"unknown data set '{name}', which is a folder or zip; expected image-folder:{name}"):
        load_raw(name, tmp_path / "base" if base == "data_dir" else None)


def test_a_file_of_data_needs_a_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"unknown data set 'x.npy', which is a file; expected .*path/to/file.py:function"):
        load_raw("x.npy")


def test_a_folder_called_as_a_data_set_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_raw("digits")[0].name == "digits"


@pytest.mark.parametrize("name", ["mine.py", "mine.py:make"])
def test_files_are_named_where_they_cannot_be_taken(name):
    with pytest.raises(InputError, match=f"schedule '{name}' is in a file; expected a name: .*--load mine.py"):
        LEARNING_RATES.find(name)
    with pytest.raises(InputError, match=r"model 'net.py' is a file; expected also the name of a function in it: net.py:make"):
        MODELS.find("net.py")


LINE = script("line", {"problem": ProblemOptions, "recipe": Recipe})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "float16"], "unknown precision 'float16'; expected one of: bf16, full. Did you mean 'bf16'"),
        (["--precision", "fp32"], "Did you mean 'full'"),
        (["--dtype", "double"], "unknown dtype 'double'; expected one of: float32, float64. Did you mean 'float64'"),
        (["--decay", "weight"], "Did you mean 'weights'"),
        (["--milestones", "5,7"], "Give several values with blanks between them: --milestones 5 7"),
        (["--widths", "8,4"], "Give several values with blanks between them: --widths 8 4"),
    ],
)
def test_the_parser_names_the_word_that_is_meant(arguments, said):
    with pytest.raises(InputError, match=said):
        parse(LINE, None, arguments)


def test_the_same_words_are_suggested_in_python():
    with pytest.raises(InputError, match=r"unknown precision 'float16'.*Did you mean 'bf16'"):
        Recipe(precision="float16")
    with pytest.raises(InputError, match=r"unknown dtype 'double'.*Did you mean 'float64'"):
        Problem("mlp", "digits", dtype="double")
