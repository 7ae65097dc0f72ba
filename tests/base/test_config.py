"""Recipes: every shipped file parses; every mistake is refused with the way out."""

from dataclasses import replace

import pytest

from segkit.config import (
    Recipe,
    as_setting,
    load_recipe,
    recipe_folder,
    recipe_name,
    recipe_values,
    whole_paths,
)
from segkit.errors import UserError
from segkit.structs import from_mapping, to_mapping


@pytest.mark.parametrize("path", sorted(recipe_folder().glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_parse_and_carry_their_name(path):
    assert load_recipe(path.stem).name == path.stem


def test_the_default_recipe_is_nnunets_schedule():
    recipe = load_recipe("default")
    assert replace(recipe, name="default") == Recipe()
    assert recipe.schedule.epochs == 1000
    assert recipe.schedule.iterations_per_epoch == 250
    optimizer = recipe.optimizer.settled()
    assert (optimizer.name, optimizer.annealing, optimizer.warmup) == ("sgd", "poly", 0)
    assert (optimizer.learning_rate, optimizer.weight_decay) == (0.01, 3e-5)
    assert (optimizer.momentum, optimizer.poly_power, optimizer.gradient_clip) == (0.99, 0.9, 12)


def test_settings_change_values_by_full_or_last_name():
    recipe = load_recipe("debug", ["epochs=7", "optimizer.learning_rate=1e-3", "scaling=[1, 2]"])
    assert recipe.schedule.epochs == 7
    assert recipe.schedule.iterations_per_epoch == 2
    assert recipe.optimizer.learning_rate == 0.001
    assert recipe.augment.scaling == (1.0, 2.0)


def test_sampling_weights_are_values_of_the_recipe():
    settings = ["sampling.class_weights={liver: 1, tumor: 3}", "case_weights={c1: 0.5}"]
    recipe = load_recipe("default", settings)
    assert recipe.sampling.class_weights == {"liver": 1.0, "tumor": 3.0}
    assert recipe.sampling.case_weights == {"c1": 0.5}
    assert from_mapping(Recipe, to_mapping(recipe), source="x") == recipe


def test_a_file_is_a_recipe_named_after_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\n")
    assert load_recipe(str(path)) == Recipe(name="mine", seed=3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "did you mean 'schedule.epochs'"),
        ("p_blurr=1", "did you mean 'augment.p_blur'"),
        ("augment.p_blurr=1", "did you mean 'augment.p_blur'"),
        ("epochs", "expected key=value"),
        ("epochs=many", "expected int, got 'many'"),
        ("epochs=0", "epochs must be at least 1"),
        ("momentum=1", r"momentum must lie in \[0, 1\)"),
        ("learning_rate=0", "learning_rate must be positive"),
        ("weight_decay=-1", "weight_decay must not be negative"),
        ("gradient_clip=0", "gradient_clip must be positive"),
        ("betas=[0.9, 1]", r"betas must lie in \[0, 1\)"),
        ("betas=[0.5, 0.9]", "betas has no effect unless name is adam or adamw"),
        ("accumulate=0", "accumulate must be at least 1"),
        ("warmup=-1", "warmup must not be negative"),
        ("warmup=2.5", "a share below 1 or a whole number of steps"),
        ("optimizer.name=adam2", "'adam2' is not allowed"),
        ("averaging.decay=1", r"decay must lie in \[0, 1\)"),
        ("early_stopping=0", "early_stopping must be at least 1"),
        ("p_noise=2", r"p_noise must lie in \[0, 1\]"),
        ("gamma=[2, 1]", r"gamma must be \[low, high\]"),
        ("precision=fp8", "'fp8' is not allowed"),
        ("epochs=[", "cannot read the value"),
        ("class_weights=auto", "loss.class_weights and sampling.class_weights"),
        ("loss.class_weights=atuo", "expected 'auto' or keys and values, got 'atuo'"),
        ("loss.class_weights={liver:2}", "space after every colon"),
        ("loss.class_weights={liver: -1}", "class_weights must be 0 or more, got -1.0 for 'liver'"),
        ("loss.class_weights={liver: .nan}", "class_weights must be 0 or more, got nan"),
        ("loss.class_weights={liver: heavy}", "key loss.class_weights.liver"),
        ("cross_entropy=focl", "did you mean 'focal'"),
        ("focal_gamma=3", "focal_gamma has no effect unless cross_entropy is focal"),
        ("topk_percent=5", "topk_percent has no effect unless cross_entropy is topk"),
        ("topk_percent=0", r"topk_percent must lie in \(0, 100\]"),
        ("label_smoothing=1", r"label_smoothing must lie in \[0, 1\)"),
        ("focal_gamma=-1", "focal_gamma must not be negative"),
        ("sampling.class_weights={liver: -1}", "class_weights must be 0 or more.*'liver'"),
        ("case_weights={c1: .inf}", "case_weights must be 0 or more.*'c1'"),
        ("case_weights={1: 2}", "expected str, got 1"),
        ("case_weights=3", "expected keys and values, got 3"),
    ],
)
def test_bad_settings_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        load_recipe("default", [setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimizer.name=adam", "momentum=0.9"], "momentum has no effect unless name is sgd"),
        (["annealing=cosine", "poly_power=1"], "poly_power has no effect unless annealing is poly"),
        (["cross_entropy=focal", "label_smoothing=0.1"], "use one of them"),
        (["early_stopping=5", "validation_iterations=0"], "early_stopping needs a Dice"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load_recipe("default", settings)


def test_weights_are_given_by_name():
    settings = ["loss.class_weights={liver: 2, tumour core: 3.5}", "loss.cross_entropy=topk"]
    loss = load_recipe("debug", [*settings, "topk_percent=5"]).loss
    assert loss.class_weights == {"liver": 2.0, "tumour core": 3.5}
    assert (loss.cross_entropy, loss.topk_percent) == ("topk", 5.0)
    assert load_recipe("debug", ["loss.class_weights=auto"]).loss.class_weights == "auto"
    assert load_recipe("debug", ["loss.class_weights=null"]).loss.class_weights is None


def test_settings_replace_the_weights_of_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("loss:\n  class_weights: {liver: 2}\n")
    assert load_recipe(str(path)).loss.class_weights == {"liver": 2.0}
    changed = load_recipe(str(path), ["loss.class_weights={spleen: 3}"])
    assert changed.loss.class_weights == {"spleen": 3.0}


def test_unknown_recipes_are_refused():
    with pytest.raises(UserError, match="did you mean 'quick'"):
        load_recipe("qick")


def test_recipes_are_joined_value_by_value(tmp_path):
    path = tmp_path / "a+b.yaml"
    path.write_text("schedule: {epochs: 7}\naugment: {p_noise: 0.5}\n")
    names = f"debug+{path.parent / 'mine.yaml'}"
    (tmp_path / "mine.yaml").write_text(path.read_text())
    joined = load_recipe(names, ["p_blur=0"])
    assert (joined.name, recipe_name(names)) == ("debug+mine", "debug+mine")
    assert (joined.schedule.epochs, joined.schedule.iterations_per_epoch) == (7, 2)
    assert (joined.augment.p_noise, joined.augment.p_blur) == (0.5, 0.0)
    assert joined.augment.mirror is False
    assert load_recipe(f"{tmp_path / 'mine.yaml'}+debug").schedule.epochs == 2
    assert load_recipe(str(path)).name == recipe_name(str(path)) == "a+b"


def test_a_mistake_in_joined_recipes_is_told_with_its_file(tmp_path):
    (tmp_path / "bad.yaml").write_text("augment: {p_nose: 1}\n")
    with pytest.raises(UserError, match=r"bad\.yaml, key augment"):
        load_recipe(f"quick+{tmp_path / 'bad.yaml'}")
    with pytest.raises(UserError, match="no recipe 'qick'"):
        load_recipe("debug+qick")


@pytest.mark.parametrize("text", ["a: [", "- 1", "sched: 1"])
def test_faulty_files_are_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_recipe(str(path))


def test_the_resolved_recipe_round_trips():
    recipe = load_recipe("debug", ["seed=5", "loss.class_weights={liver: 2}"])
    assert from_mapping(Recipe, to_mapping(recipe), source="x") == recipe


def test_a_class_is_a_value_of_the_recipe(tmp_path):
    settings = ["network.class=package.nets:MyNet", "arguments={width: 8, names: [a, b]}"]
    recipe = load_recipe("default", settings)
    assert recipe.network.class_ == "package.nets:MyNet"
    assert recipe.network.arguments == {"width": 8, "names": ["a", "b"]}
    assert from_mapping(Recipe, to_mapping(recipe), source="x") == recipe
    (tmp_path / "mine.yaml").write_text("network: {class: 'package.nets:MyNet'}")
    assert load_recipe(str(tmp_path / "mine.yaml")).network.class_ == "package.nets:MyNet"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network.class=MyNet"], "class must be package.module:Class, got 'MyNet'"),
        (["network.class=a/b.py:MyNet"], "class must be package.module:Class"),
        (["arguments={width: 8}"], "arguments have no effect without a class"),
        (["network.class=a:B", "norm=batch"], "norm has no effect on a class"),
        (["network.class=a:B", "network.dropout=0"], "dropout has no effect on a class"),
        (["network.class=a:B", "checkpointing=true"], "checkpointing has no effect on a class"),
        (["network.class=a:B", "arguments={patch_size: [8]}"], "must not hold patch_size"),
        (["network.class=a:B", "arguments={x: .inf}"], "must be numbers, words"),
        (["network.class=a:B", "arguments={x: 2020-01-01}"], "must be numbers, words"),
        (["network.stages=1"], "stages must be at least 2"),
        (["dropout=1"], r"dropout must lie in \[0, 1\)"),
        (["norm=layer"], "'layer' is not allowed"),
        (["features_per_stage=[8, 0]"], "features_per_stage must be positive"),
    ],
)
def test_networks_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load_recipe("default", settings)


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_words_that_yaml_takes_for_booleans_are_words(word, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"compile: {word}\n")
    assert load_recipe(str(path)).compile == word
    assert load_recipe("default", [f"compile={word}"]).compile == word


@pytest.mark.parametrize("path", sorted(recipe_folder().glob("*.yaml")), ids=lambda p: p.stem)
def test_the_values_of_a_recipe_as_settings_give_it_again(path):
    recipe = load_recipe(path.stem)
    settings = [as_setting(*item) for item in recipe_values(recipe).items()]
    assert replace(load_recipe("default", settings), name=path.stem) == recipe


def test_settings_are_written_as_they_are_read():
    given = ["sampling.class_weights={a b: 2, 'on': 1e-5}", "augment.mirror=off", "momentum=0.9"]
    recipe = load_recipe("default", given)
    values = recipe_values(recipe)
    assert values["sampling.class_weights"] == {"a b": 2.0, "on": 1e-5}
    settings = [as_setting(*item) for item in values.items()]
    assert load_recipe("default", settings) == recipe


def test_files_of_a_recipe_are_named_by_whole_paths(tmp_path, monkeypatch):
    (tmp_path / "my.yaml").write_text("epochs: 3")
    monkeypatch.chdir(tmp_path)
    assert whole_paths("quick+my.yaml") == f"quick+{tmp_path / 'my.yaml'}"
