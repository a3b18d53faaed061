import dataclasses

import pytest

from camlens.errors import UsageError
from camlens.train.recipe import RANGES, RECIPES, Recipe, changed, find_recipe, from_config


def test_the_last_epoch_has_the_last_size():
    sizes = (16, 24, 24, 32, 32)
    for epochs in range(1, 40):
        course = [Recipe(epochs=epochs, sizes=sizes).size_at(epoch) for epoch in range(epochs)]
        assert course[-1] == 32
        assert course == sorted(course)
    assert [Recipe(epochs=5, sizes=sizes).size_at(e) for e in range(5)] == list(sizes)
    assert [Recipe(epochs=10, sizes=sizes).size_at(e) for e in range(10)] == [16, 16, 24, 24, 24, 24, 32, 32, 32, 32]


def test_the_rate_rises_and_falls_in_straight_lines():
    recipe = Recipe(rate=0.4, warmup=0.25)
    for progress, rate in [(0, 0), (0.125, 0.2), (0.25, 0.4), (0.625, 0.2), (1, 0)]:
        assert recipe.rate_at(progress) == pytest.approx(rate)
    assert Recipe(rate=0.4, warmup=0).rate_at(0) == pytest.approx(0.4)
    assert Recipe(rate=0.4, warmup=1).rate_at(0.5) == pytest.approx(0.2)


def test_the_average_is_short_at_first():
    recipe = Recipe(average=0.98)
    assert [recipe.average_at(step) for step in (0, 8, 80, 440, 10_000)] == [0.1, 0.5, 0.9, 0.98, 0.98]
    assert Recipe(average=0).average_at(100) == 0


def test_epochs_by_steps():
    recipe = Recipe(epochs=5, min_steps=100, batch=32)
    assert [recipe.for_images(count).epochs for count in (2, 45, 180, 900, 100_000)] == [100, 50, 17, 5, 5]
    assert changed(recipe, ["epochs=3"]).for_images(180).epochs == 3, "epochs that are given are meant"
    assert changed(recipe, ["epochs=3", "min_steps=100"]).for_images(180).epochs == 17


def test_any_field_can_be_set():
    recipe = changed(find_recipe("quick"), ["epochs=3", "sizes=16,32", "rate=1e-2", "flip=false", "stem=imagenet"])
    assert recipe == Recipe(epochs=3, sizes=(16, 32), rate=0.01, flip=False, stem="imagenet", crop=2, average=0.98)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_config(name):
    fields = dataclasses.asdict(RECIPES[name])
    assert from_config({**fields, "sizes": list(fields["sizes"])}) == RECIPES[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "expected field=value"),
        ("epoch=2", "unknown recipe field 'epoch'; a recipe has: network, width"),
        ("epochs=two", "epochs is 'two'; expected a value like 2"),
        ("epochs=0", "epochs is 0; expected 1 or more"),
        ("sizes=16,x", "sizes is '16,x'; expected numbers like 16,24,32"),
        ("sizes=4", "expected sides of 8 pixels or more"),
        ("rate=nan", "rate is nan; expected a number above 0"),
        ("rate=inf", "rate is inf"),
        ("batch=1", "batch is 1; expected 2 or more"),
        ("flip=perhaps", "flip is 'perhaps'"),
        ("holdout=1", "holdout is 1.0"),
        ("crop=16", "crop is 16"),
        ("network=resnet19", "unknown network 'resnet19'; camlens has: resnet18"),
        ("stem=large", "unknown stem 'large'"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        changed(find_recipe("quick"), [change])


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="unknown recipe 'slow'; camlens has: quick, cpu, long, fast, best, "):
        find_recipe("slow")


def test_every_range_belongs_to_a_field():
    assert set(RANGES) <= {field.name for field in dataclasses.fields(Recipe)}
