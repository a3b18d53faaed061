import dataclasses

import pytest
import torch

from camlens.errors import UsageError
from camlens.train.recipe import RECIPES, Recipe, change_recipe, find_recipe, parse_changes, recipe_from_json


def test_the_last_epoch_has_the_last_size():
    sizes = (16, 24, 24, 32, 32)
    for epochs in range(1, 40):
        course = [Recipe(epochs=epochs, sizes=sizes).size_at(epoch) for epoch in range(epochs)]
        assert course[-1] == 32
        assert course == sorted(course)
    assert [Recipe(epochs=5, sizes=sizes).size_at(e) for e in range(5)] == list(sizes)
    assert [Recipe(epochs=10, sizes=sizes).size_at(e) for e in range(10)] == [16, 16, 24, 24, 24, 24, 32, 32, 32, 32]


def test_the_learning_rate_rises_and_falls_in_straight_lines():
    recipe = Recipe(learning_rate=0.4, warmup=0.25)
    for progress, learning_rate in [(0, 0), (0.125, 0.2), (0.25, 0.4), (0.625, 0.2), (1, 0)]:
        assert recipe.learning_rate_at(progress) == pytest.approx(learning_rate)
    assert Recipe(learning_rate=0.4, warmup=0).learning_rate_at(0) == pytest.approx(0.4)
    assert Recipe(learning_rate=0.4, warmup=1).learning_rate_at(0.5) == pytest.approx(0.2)
    assert "learning rate: linear warmup, linear decay to 0" in recipe.schedule_in_words, (
        "config.json says these values"
    )


@pytest.mark.parametrize("warmup", [0.3, 0.05, 0.8])
def test_the_cosine_schedule_is_that_of_torchs_one_cycle(warmup):
    recipe, steps = Recipe(learning_rate=0.4, warmup=warmup, schedule="cosine"), 200
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    reference = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.4, steps, pct_start=warmup, cycle_momentum=False)
    peak = warmup * steps - 1  # torch's step of the highest rate; its last step is the end of the schedule
    for step in range(steps):
        rising, falling = step / peak * warmup, 1 - (steps - 1 - step) / (steps - 1 - peak) * (1 - warmup)
        progress = rising if step <= peak else falling
        assert recipe.learning_rate_at(progress) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        reference.step()
    assert [recipe.learning_rate_at(end) for end in (0, 1)] == pytest.approx([0.4 / 25, 0.4 / 250_000])
    assert "cosine warmup from peak / 25, cosine decay to peak / 250,000" in recipe.schedule_in_words


def test_the_moving_average_is_short_at_first():
    recipe = Recipe(ema_decay=0.98)
    assert [recipe.ema_decay_at(step) for step in (0, 8, 80, 440, 10_000)] == [0.1, 0.5, 0.9, 0.98, 0.98]
    assert Recipe(ema_decay=0).ema_decay_at(100) == 0
    assert "EMA decay: min(ema_decay, (1 + step) / (10 + step))" in recipe.schedule_in_words, (
        "config.json says these values"
    )


def test_epochs_by_steps():
    recipe = Recipe(epochs=5, min_steps=100, batch_size=32)
    assert [recipe.for_images(count).epochs for count in (2, 45, 180, 900, 100_000)] == [100, 50, 17, 5, 5]
    assert change_recipe(recipe, {"epochs": 3}).for_images(180).epochs == 3, "epochs that are given are meant"
    assert change_recipe(recipe, {"epochs": 3, "min_steps": 100}).for_images(180).epochs == 17


def test_any_field_can_be_set():
    recipe = change_recipe(
        Recipe(epochs=2, crop=2, ema_decay=0.98),
        parse_changes(["epochs=3", "sizes=16,32", "learning_rate=1e-2", "flip=false", "stem=imagenet"]),
    )
    assert recipe == Recipe(
        epochs=3, sizes=(16, 32), learning_rate=0.01, flip=False, stem="imagenet", crop=2, ema_decay=0.98
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_config(name):
    fields = dataclasses.asdict(RECIPES[name])
    assert recipe_from_json({**fields, "sizes": list(fields["sizes"])}) == RECIPES[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "expected field=value"),
        ("epoch=2", "unknown recipe field 'epoch'; a recipe has: network, width"),
        ("epochs=two", "epochs is 'two'; expected a value like 2"),
        ("epochs=0", "epochs is 0; expected 1 or more"),
        ("sizes=16,x", "sizes is '16,x'; expected numbers like 16,24,32"),
        ("sizes=4", "expected sides of 8 pixels or more"),
        ("learning_rate=nan", "learning_rate is nan; expected a number above 0"),
        ("learning_rate=inf", "learning_rate is inf"),
        ("batch_size=1", "batch_size is 1; expected 2 or more"),
        ("flip=perhaps", "flip is 'perhaps'"),
        ("holdout=1", "holdout is 1.0"),
        ("crop=16", "crop is 16"),
        ("network=resnet19", "unknown network 'resnet19'; camlens has: resnet18"),
        ("stem=large", "unknown stem 'large'"),
        ("schedule=step", "unknown schedule 'step'; camlens has: linear, cosine"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        change_recipe(find_recipe("quick"), parse_changes([change]))


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="unknown recipe 'slow'; camlens has: quick, cpu, long, fast, best, "):
        find_recipe("slow")


def test_every_number_has_a_range():
    numbers = {field.name for field in dataclasses.fields(Recipe) if type(field.default) in (int, float, tuple)}
    ranges = {field.name for field in dataclasses.fields(Recipe) if field.metadata}
    assert ranges == numbers


OLD = {"batch": 8, "rate": 0.3, "decay": 0.01, "smoothing": 0.2, "average": 0.5}


def test_old_names_are_read_with_a_note(caplog):
    new = Recipe(batch_size=8, learning_rate=0.3, weight_decay=0.01, label_smoothing=0.2, ema_decay=0.5)
    assert change_recipe(Recipe(), OLD) == new
    assert "recipe field rate is called learning_rate now" in caplog.messages and len(caplog.messages) == 5
    caplog.clear()
    assert recipe_from_json({**OLD, "sizes": [32]}) == new
    assert not caplog.messages
