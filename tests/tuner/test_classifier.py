"""`CraftClassifier` is a scikit-learn estimator, and does what the commands do."""

import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import craft_tuner
from craft_tuner import CraftClassifier
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.data.arrays import grey_pictures
from craft_tuner.data.pictures import decode, encode_png
from craft_tuner.errors import BudgetExhausted, DataError, InputError, RunError, UsageError
from craft_tuner.plan import amounts
from tests.support.tuner_adapters import ZOO, an_adapter, photos, saved
from tests.support.tuner_commands import build_zoo, typing_to
from tests.support.tuner_server import KEY, FakeServer, listening

pytestmark = pytest.mark.slow

TINY = {"population": 4, "intrinsic_dim": 8, "views": 1, "validation_folds": 0, "sigma": 0.5}
SAME_IMAGE = (
    "the data has rows that are the same image to 8 bits under two labels, and a fit refuses that"
)
DO_NOT_APPLY = dict.fromkeys(
    ("check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in"), SAME_IMAGE
)


def tiny(**parameters):
    return CraftClassifier(**({"method": "bbt", "budget": 8, "settings": TINY} | parameters))


@pytest.fixture(scope="module")
def server():
    """A server that every test of this module asks; its address is in the environment."""
    server = FakeServer(queries=10**9)
    with listening(server) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAFT_SERVER_URL", url)
        patch.setenv("CRAFT_API_KEY", KEY)
        yield server


@pytest.fixture
def shades():
    """Twelve images (N, H, W, 3) of three classes, and their labels."""
    draw = np.random.default_rng(1)
    return draw.integers(0, 256, (12, 6, 8, 3), np.uint8), np.repeat(["cat", "sea_lion", "ox"], 4)


@parametrize_with_checks([tiny()], expected_failed_checks=lambda _: DO_NOT_APPLY)
def test_scikit_learns_own_checks(estimator, check, server):
    check(estimator)


def test_fitting_again_gives_the_same_classifier(server, shades):
    images, labels = shades
    first, second = tiny().fit(images, labels), tiny().fit(images, labels)
    assert first.adapter_.to_bytes() == second.adapter_.to_bytes()
    assert (
        clone(first).fit(images, labels).predict(images).tolist() == first.predict(images).tolist()
    )


@pytest.mark.parametrize(
    ("parameters", "flags"),
    [
        ({}, ()),
        ({"budget": 3}, ("--budget", 3)),
        ({"settings__bank_names": 3, "seed": 2}, ("--bank-names", 3, "--seed", 2)),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                ({"budget": 9}, ("--budget", 9)),
                ({"method": "craft_plus"}, ("--method", "craft_plus")),
                ({"preset": "digits"}, ("--preset", "digits")),
                ({"preset": "dtd", "method": "auto"}, ("--preset", "dtd", "--method", "auto")),
                ({"settings": {"bank_prompts": 2}}, ("--bank-prompts", 2)),
            )
        ),
    ],
)
def test_its_plan_is_that_of_the_command(tmp_path, parameters, flags):
    server, zoo = FakeServer(), build_zoo(tmp_path / "zoo")
    files = sorted((zoo / "train").glob("*/*.png"))
    small = {"views": 1, "population": 4, "intrinsic_dim": 8}
    with typing_to(server) as tuner:
        run = tmp_path / "run"
        sized = [f"--{name.replace('_', '-')}={value}" for name, value in small.items()]
        code, _, error = tuner(
            *("fit", "--data", zoo / "train", "--run", run, "--shots", 5, "--budget", 60),
            *("--sampling", "coop", *sized, *flags),
        )
        assert code == 0, error
        ours = {"budget": 60, "settings": small, "preset": None} | parameters
        ours["settings"] = small | ours["settings"]
        fitted = CraftClassifier().set_params(**ours)
        fitted.fit(files, [path.parent.name for path in files])
    assert fitted.plan_.model_dump_json(indent=2) + "\n" == (run / "plan.json").read_text()


def test_the_default_spends_what_the_default_of_the_command_does(server, shades, caplog):
    caplog.set_level("INFO", "craft_tuner")
    spent = server.spent.queries
    fitted = CraftClassifier().fit(*shades)
    assert server.spent.queries - spent == fitted.plan_.total.queries <= 8
    assert fitted.plan_.method == "bank"
    queries = fitted.plan_.total.queries
    spending = f"{queries} to fit, 0 to test, {queries} per batch of answers"
    assert caplog.messages == [f"bank: {spending}; in all {amounts(fitted.plan_.total)}"]


@pytest.mark.parametrize(
    ("parameters", "least"),
    [
        ({"method": "craft", "budget": 4}, "at least 5"),
        ({"method": "bbt", "budget": 3}, "at least 4"),
        ({"method": "bank", "budget": 7, "settings": {}}, "at least 8"),
        ({"method": "head_only", "budget": 1, "settings": {"views": 8}}, "at least"),
        ({"preset": "caltech101", "method": None, "budget": 4}, "at least 5"),
    ],
)
def test_nothing_is_sent_with_a_plan_beyond_the_budget(server, shades, parameters, least):
    asked = len(server.asked)
    with pytest.raises(BudgetExhausted, match=least):
        tiny(**({"settings": {}} | parameters)).set_params(settings__population=4).fit(*shades)
    assert {one.method for one in server.asked[asked:]} == {"GET"}


def test_settings_are_parameters(server, shades):
    given = {"sigma": 0.5, "views": 1}
    classifier = CraftClassifier(settings=given)
    assert classifier.get_params()["settings__sigma"] == 0.5
    assert "settings__sigma" not in classifier.get_params(deep=False)
    changed = clone(classifier).set_params(settings__sigma=1.0, settings__bound=None, seed=3)
    assert changed.settings == {"sigma": 1.0, "views": 1, "bound": None}
    assert (changed.seed, given) == (3, {"sigma": 0.5, "views": 1})
    assert CraftClassifier().set_params(settings__views=2).settings == {"views": 2}
    replaced = classifier.set_params(settings__views=3, settings={"flip": False})
    assert replaced.settings == {"flip": False, "views": 3}
    with pytest.raises(ValueError, match="Invalid parameter 'setting' for estimator"):
        classifier.set_params(setting__views=1)
    with pytest.raises(UsageError, match="no setting is called sgima"):
        tiny().set_params(settings__sgima=1).fit(*shades)
    with pytest.raises(InputError, match="settings is 3; needed: a mapping"):
        tiny(settings=3).fit(*shades)
    search = GridSearchCV(tiny(), {"settings__sigma": [0.5, 1.0]}, cv=2, error_score="raise")
    assert search.fit(*shades).best_params_["settings__sigma"] in (0.5, 1.0)


def test_a_pickle_of_before_is_read(server, shades):
    fitted = tiny(method="craft").fit(*shades)
    state = vars(fitted).copy()
    del state["plan_"]
    old = CraftClassifier.__new__(CraftClassifier)
    old.__setstate__(state)
    again = pickle.loads(pickle.dumps(old))
    assert again.method == "craft"
    assert (again.predict(shades[0]) == fitted.predict(shades[0])).all()


def test_it_does_what_the_command_does(tmp_path):
    server, zoo = FakeServer(), build_zoo(tmp_path / "zoo")
    files = sorted((zoo / "train").glob("*/*.png"))
    labels = [path.parent.name for path in files]
    flags = [f"--set={name}={value}" for name, value in TINY.items()]
    with typing_to(server) as tuner:
        run = tmp_path / "run"
        reported = tuner(
            *("fit", "--data", zoo / "train", "--run", run, "--method", "craft"),
            *("--shots", 3, "--budget", 20, *flags),
        )
        assert reported[0] == 0, reported
        out = tuner("predict", run, zoo / "test", "--top", 3)[1]
        fitted = tiny(method="craft", shots=3, budget=20, class_names={"sea_lion": "sea lion"})
        with pytest.raises(InputError, match="class_names has no name for the label 'cat'"):
            fitted.fit(files, labels)
        fitted.set_params(class_names=None).fit(files, labels)
        rows = [json.loads(line) for line in out.splitlines()]
        found = fitted.predict_proba([row["name"] for row in rows])
    commanded = Adapter.load(run)
    assert fitted.classes_.tolist() == ["cat", "ox", "sea_lion"]
    assert fitted.adapter_.card.class_names == ("cat", "ox", "sea lion")
    assert (fitted.adapter_.offsets == commanded.offsets).all()
    assert all(
        (a.weight == b.weight).all()
        for a, b in zip(fitted.adapter_.head, commanded.head, strict=True)
    )
    for row, probabilities in zip(rows, found, strict=True):
        assert [each["probability"] for each in row["top"]] == sorted(probabilities)[::-1]
    assert fitted.result_["spent_total"]["queries"] <= 20


def test_a_fit_tells_the_tracker_of_the_environment(server, shades, monkeypatch):
    heard = []
    tracker = SimpleNamespace(
        start=lambda run: heard.append(sorted({"data", "model", "seed"} & set(run.config))),
        generation=lambda metrics: heard.append(metrics["queries"]),
        finish=lambda result: heard.append(result["method"]),
    )
    monkeypatch.setitem(sys.modules, "tracker_of_classifier", SimpleNamespace(make=lambda: tracker))
    monkeypatch.setenv("CRAFT_TRACK", "tracker_of_classifier:make")
    tiny().fit(*shades)
    started, *generations, ended = heard
    assert (started, ended) == (["seed"], "bbt")
    assert generations == [4, 8]
    monkeypatch.setenv("CRAFT_TRACK", "nothing")
    spent = server.spent
    with pytest.raises(UsageError, match="there is no such tracker"):
        tiny(seed=5).fit(*shades)
    assert server.spent == spent


# --- what X and y may be --------------------------------------------------------------------------


def test_pictures_are_the_same_whatever_holds_them(server, shades, tmp_path):
    images, labels = shades
    fitted = tiny().fit(images, labels)
    wanted = fitted.decision_function(images)
    drawn = [Image.fromarray(pixels) for pixels in images]
    files = [encode_png(image) for image in drawn]
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    objects = np.empty(len(images), object)
    objects[:] = drawn
    spent = server.spent
    held = [list(images), drawn, files, paths, list(map(str, paths)), objects, np.array(paths)]
    held += [np.array(list(map(str, paths))), tuple(drawn)]
    for values in held:
        assert (fitted.decision_function(values) == wanted).all()
    assert (fitted.predict(images) == fitted.classes_[wanted.argmax(axis=1)]).all()
    assert server.spent == spent, "a prediction is paid once, however its images are given"


def test_grey_pixels_need_no_channels(server):
    grey = np.random.default_rng(2).integers(0, 256, (8, 5, 5), np.uint8)
    fitted = tiny().fit(grey, [True, False] * 4)
    assert (fitted.predict_proba(grey) == fitted.predict_proba(grey[..., None])).all()
    assert fitted.predict(grey).dtype == bool
    assert not hasattr(fitted, "n_features_in_")


def test_rows_of_numbers_are_grey_squares():
    [square, padded] = (
        np.asarray(decode(grey_pictures(np.array([row]), (-1.0, 3.0))[0]))[..., 0]
        for row in ([-2.0, -1.0, 1.0, 3.0], [3.0, 9.0, 1.0, -1.0, 3.0])
    )
    assert square.tolist() == [[0, 0], [128, 255]]
    assert padded.tolist() == [[255, 255, 128], [0, 255, 0], [0, 0, 0]]
    [flat] = grey_pictures(np.ones((1, 4)), (1.0, 1.0))
    assert np.asarray(decode(flat)).max() == 0


def test_what_is_black_and_white_is_learnt_or_given(server):
    images = np.random.default_rng(3).uniform(0, 16, (9, 16))
    labels = [3, 1, 2] * 3
    assert tiny().fit(images, labels).value_range_ == (images.min(), images.max())
    given = tiny(value_range=(0, 16)).fit(images, labels)
    assert given.value_range_ == (0, 16)
    assert given.n_features_in_ == 16
    again = given.fit(images.reshape(9, 4, 4).astype(np.uint8), labels)
    assert not {"value_range_", "n_features_in_"} & set(vars(again))
    assert given.adapter_.card.class_names == ("1", "2", "3")


def test_all_images_are_shots_unless_so_many_are_asked_for(server, shades):
    images, labels = shades[0][:11], shades[1][:11]
    with pytest.raises(DataError, match="4 shots need 4"):
        tiny(shots=4).fit(images, labels)
    assert tiny().fit(images, labels).result_["images"]["shots"] == 11
    assert tiny(shots=2).fit(images, labels).result_["images"]["shots"] == 6


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((2, 4, 4, 5)), r"image 000000 is float64 \(4, 4, 5\); allowed: a path, bytes"),
        (np.zeros((2, 4, 4, 0), np.uint8), r"is uint8 \(4, 4, 0\)"),
        (np.full((2, 4, 4, 3), 1.5), r"from 1\.5 to 1\.5; colours and alpha are allowed as"),
        (np.full((2, 4, 4, 3), -1), r"image 000000 is int64 \(4, 4, 3\) from -1 to -1"),
        (np.full((2, 4, 4, 3), np.nan), r"from nan to nan"),
        (np.full((2, 4, 4), np.inf), r"image 000000 cannot be shown: it has values .* not finite"),
        (np.full((2, 4, 4), 1e300), r"image 000000 cannot be shown: it has values .* not finite"),
        (np.zeros((2, 0, 4), np.uint8), r"is uint8 \(0, 4\)"),
        ([b"", 3], "image 000001 is int"),
    ],
)
def test_values_that_are_no_pictures_are_named(server, values, words):
    with pytest.raises(InputError, match=words) as raised:
        tiny().fit(values, [0, 1])
    assert isinstance(raised.value, ValueError)


class Frame:
    """What a data frame shows of itself: rows by its length, names of columns when iterated."""

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns
        self.shape, self.ndim = (len(rows), len(columns)), 2

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.columns)

    def __getitem__(self, name):
        return self.rows[:, self.columns.index(name)]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.rows, dtype)


class Table:
    """What an Arrow table or a Hugging Face dataset shows of itself."""

    column_names = ("path", "label")

    def __len__(self):
        return 12

    def __getitem__(self, place):
        return ["a.png", "b.png"][place]


NAMED = [
    Frame(np.eye(12), [f"pixel{number}" for number in range(12)]),
    Frame(np.eye(12), ["a.png", *range(11)]),
    Frame(np.array([["a.png", "b.png"]] * 12), ["path", "other"]),
    Table(),
    {"path": ["a.png"] * 12},
    np.zeros(12, [("width", float), ("height", float)]),
]


@pytest.mark.parametrize("values", NAMED, ids=lambda values: type(values).__name__)
def test_names_of_columns_are_not_read_as_paths(server, shades, values):
    fitted = CraftClassifier()
    fitted.adapter_ = an_adapter()
    asked = len(server.asked)
    for use in (lambda: tiny().fit(values, shades[1]), lambda: fitted.predict(values)):
        with pytest.raises(InputError, match=f"X is a {type(values).__name__} with named columns"):
            use()
    assert len(server.asked) == asked


def test_numbered_columns_are_rows_of_numbers(server):
    rows = np.random.default_rng(5).uniform(0, 16, (9, 16))
    frame = Frame(rows, list(range(16)))
    fitted = tiny().fit(frame, [3, 1, 2] * 3)
    assert (fitted.predict(frame) == fitted.predict(rows)).all()


@pytest.mark.parametrize("longer", ["X", "y"])
@pytest.mark.parametrize("kind", ["pixels", "list", "tuple", "rows", "bytes"])
def test_lists_of_different_length_are_refused(server, shades, longer, kind):
    images, labels = shades
    short, long = slice(0, 9), slice(0, 12)
    X = images[long if longer == "X" else short]
    held = {
        "pixels": X,
        "list": list(X),
        "tuple": tuple(X),
        "rows": X.reshape(len(X), -1).astype(float),
        "bytes": [encode_png(Image.fromarray(pixels)) for pixels in X],
    }
    asked = len(server.asked)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        tiny().fit(held[kind], labels[short if longer == "X" else long])
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("parameters", "y", "words"),
    [
        ({}, ["cat"] * 12, "y has 1 class, 'cat'; needed: 2 or more"),
        ({}, ["cat"] * 11, "inconsistent numbers of samples"),
        ({"class_names": ["one"]}, [0, 1] * 6, "1 class_names for 2 labels"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(server, shades, parameters, y, words):
    spent = server.spent
    with pytest.raises(ValueError, match=words):
        tiny(**parameters).fit(shades[0], y)
    assert server.spent == spent


def test_class_names_are_given_in_the_order_of_the_labels_or_by_label(server, shades):
    fitted = tiny(class_names=["a cat", "an ox"]).fit(shades[0], [8, 5] * 6)
    assert fitted.adapter_.card.class_names == ("a cat", "an ox")
    assert set(fitted.predict(shades[0])) <= {5, 8}
    fitted = tiny(class_names={8: "an ox", 5: "a cat"}).fit(shades[0], [8, 5] * 6)
    assert fitted.adapter_.card.class_names == ("a cat", "an ox")


def test_an_image_that_cannot_be_used_is_named(server, shades, tmp_path):
    fitted = tiny().fit(*shades)
    good, bad = photos(tmp_path, "good.png", "bad.png")
    bad.write_bytes(b"")
    with pytest.raises(InputError, match=r"1 of X cannot be used: the image .*bad\.png is empty"):
        fitted.predict([good, bad])
    with pytest.raises(InputError, match="rows of numbers and the fit had pictures"):
        fitted.predict(np.zeros((2, 9)))
    with pytest.raises(NotFittedError):
        tiny().predict(shades[0])


# --- runs, keys, adapters -----------------------------------------------------------------------


def test_a_run_that_is_kept_is_paid_once(server, shades, tmp_path):
    images, labels = shades
    kept = tiny(run_dir=tmp_path / "run").fit(images, labels)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == kept.result_
    spent = server.spent
    assert clone(kept).fit(images, labels).adapter_.to_bytes() == kept.adapter_.to_bytes()
    assert server.spent == spent
    with pytest.raises(RunError, match="seed 1 -> 2"):
        clone(kept).set_params(seed=2).fit(images, labels)
    with pytest.raises(RunError, match="other labels"):
        clone(kept).fit(images, labels[::-1].copy())


def test_a_fit_that_is_refused_leaves_no_run(server, shades, tmp_path):
    with pytest.raises(UsageError, match="no setting is called sgima; did you mean sigma"):
        tiny(settings={"sgima": 1}, run_dir=tmp_path / "run").fit(*shades)
    with pytest.raises(DataError):
        tiny(shots=9, run_dir=tmp_path / "run").fit(*shades)
    assert not (tmp_path / "run").exists()


def test_a_key_is_used_and_not_shown(server, shades):
    fitted = tiny(key=KEY).fit(*shades)
    assert KEY not in f"{fitted!r} {fitted.get_params()} {fitted._repr_html_()}"
    assert clone(fitted).set_params(key=KEY).fit(*shades).key.get_secret_value() == KEY


def test_it_is_silent_by_default(server, shades, capsys):
    tiny().fit(*shades).predict(shades[0])
    assert capsys.readouterr() == ("", "")
    tiny(verbose=True).fit(*shades)
    assert "generation 1/" in capsys.readouterr().err


def test_an_adapter_of_the_command_line_is_a_classifier(server, tmp_path):
    paths = photos(tmp_path, "a.png", "b.png", "c.png")
    loaded = CraftClassifier.from_adapter(saved(an_adapter(prompts=2), tmp_path / "run").parent)
    assert loaded.classes_.tolist() == list(ZOO)
    assert set(loaded.predict(paths)) <= set(ZOO)
    assert np.allclose(loaded.predict_proba(paths).sum(axis=1), 1)
    numbers = CraftClassifier.from_adapter(tmp_path / "run", value_range=(0, 1))
    assert numbers.predict(np.eye(4)).shape == (4,)
    with pytest.raises(UsageError, match="cannot read the adapter"):
        CraftClassifier.from_adapter(tmp_path)


def test_batches_cost_what_they_are(server, tmp_path):
    loaded = CraftClassifier.from_adapter(saved(an_adapter(), tmp_path), batch_size=2)
    before = server.spent.queries
    images = np.random.default_rng(4).integers(0, 256, (5, 3, 3, 3), np.uint8)
    together = loaded.predict_proba(images)
    assert server.spent.queries == before + 3
    alone = [loaded.predict_proba(images[[place]])[0] for place in range(5)]
    assert np.allclose(alone, together, atol=1e-6)


def test_the_package_has_nothing_else_of_that_kind():
    with pytest.raises(AttributeError, match="no attribute 'CraftRegressor'"):
        _ = craft_tuner.CraftRegressor


@pytest.mark.parametrize(
    ("parameters", "apart"),
    [
        ({}, True),
        ({"validation": 0.25}, False),
        ({"validation": "25%", "method": "craft_plus"}, False),
        ({"method": "head_only", "settings__head_epochs": 2}, True),
        ({"settings__validation": "0.25"}, False),
    ],
)
def test_choices_are_made_on_validation_images(server, shades, parameters, apart):
    images, labels = shades
    draw = np.random.default_rng(2)
    more = draw.integers(0, 256, (3, 6, 8, 3), np.uint8), ["cat", "ox", "sea_lion"]
    own = {"settings": {"views": 1, "bank_prompts": 2}, "method": None, "budget": None}
    fitted = tiny(**own).set_params(**parameters)
    spent = server.spent
    fitted.fit(images, labels, **({"X_val": more[0], "y_val": more[1]} if apart else {}))
    assert fitted.plan_.validation == 3
    assert fitted.result_["images"]["shots"] == (12 if apart else 9)
    assert server.spent.queries - spent.queries == fitted.plan_.total.queries
    assert fitted.adapter_.card.training["chosen_on"]["validation_images"] == 3


@pytest.mark.parametrize(
    ("given", "parameters", "said"),
    [
        ({"X_val": "some"}, {}, "X_val and y_val together"),
        ({"y_val": ["cat"]}, {}, "X_val and y_val together"),
        ({"X_val": "some", "y_val": ["cat"]}, {"validation": 0.2}, "then no `validation`"),
        ({"X_val": "some", "y_val": ["cat"] * 2}, {}, "X_val has 3 images and y_val 2 labels"),
        ({"X_val": "some", "y_val": ["cat", "gnu", "ox"]}, {}, "the label 'gnu', which y has not"),
        ({"X_val": "some", "y_val": ["cat", "ox", "ox"]}, {}, "no image of 'sea lion'"),
        ({}, {"validation": 1.5}, "above 0 and below 1"),
        ({}, {"validation": 0.2, "method": "bbt"}, "--method bbt chooses nothing"),
    ],
)
def test_validation_images_that_cannot_be_used_are_refused(server, shades, given, parameters, said):
    more = np.random.default_rng(2).integers(0, 256, (3, 6, 8, 3), np.uint8)
    given = {name: more if name == "X_val" else value for name, value in given.items()}
    asked = len(server.asked)
    with pytest.raises((InputError, UsageError, DataError), match=said):
        tiny(**({"method": None} | parameters)).fit(*shades, **given)
    assert {one.method for one in server.asked[asked:]} <= {"GET"}
