"""Results as JSON text: exact both ways, in one order, and refused when they are not what was written."""

import json
from dataclasses import fields, replace

import pytest
from facts import CONFIGS, ENVIRONMENTS, MEASUREMENTS, PATTERNS, PROBLEMS
from hypothesis import given, settings

from autotune.db.errors import StoreError
from autotune.db.json_fields import FIELDS
from autotune.db.records import Choice, Environment, Measurement, Rate, Record, Results, Run, Status
from autotune.db.results_reader import read_results_file, results_of
from autotune.db.results_writer import VERSION, results_text
from autotune.db.store import Store
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem


@pytest.fixture
def filled(store, add, add_rate, environment):
    """A store with two cells, a decision that was revised, and a rate."""
    run_id = store.begin_run("autotune tune")
    problem, other = Problem.self_attention(1024), Problem.self_attention(2048)
    slow, fast = Config.of("sdpa", backend="math"), Config.of("sdpa", backend="flash")
    numbers = [add(store, run_id=run_id, problem=problem, config=config) for config in (slow, fast)]
    add(store, run_id=run_id, problem=other, measurement=Measurement(status=Status.OOM, reason='"too\nmuch" ∞'))
    store.decide(environment, problem, Dense(), slow, numbers[0], None, 1)
    store.decide(environment, problem, Dense(), fast, numbers[1], 0.25, 2)
    add_rate(store, run_id=run_id)
    return store


@pytest.fixture
def text(filled):
    return results_text(filled.results())


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    """One database that all examples of a property add to."""
    with Store.open(tmp_path_factory.mktemp("db") / "t.db") as store:
        yield store


@settings(max_examples=25, deadline=None)
@given(ENVIRONMENTS, PROBLEMS, PATTERNS, CONFIGS, MEASUREMENTS)
def test_every_field_goes_through_text_and_into_another_database(
    shared_store, environment, problem, pattern, config, measurement
):
    run_id = shared_store.begin_run("autotune tune")
    number = shared_store.add(run_id, environment, problem, pattern, config, measurement)
    shared_store.decide(environment, problem, pattern, config, number, measurement.rel_error, 3)
    shared_store.add_rate(run_id, environment, "float32", 1e12 / 3, 1e10 / 7)
    results = shared_store.results()
    text = results_text(results)
    read = results_of(text, "t.json")
    assert [replace(record, id=0) for record in read.records] == [replace(record, id=0) for record in results.records]
    assert read.rates == results.rates
    with Store.open("sqlite://") as copy:
        copy.merge(read)
        assert results_text(copy.results()) == text


def test_text_is_one_fact_a_line_and_plain_json(text):
    document = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert (document["format"], document["version"]) == ("autotune results", VERSION)
    counts = {name: len(entries) for name, entries in document.items() if name not in ("format", "version")}
    assert counts == {
        "environments": 1, "runs": 1, "problems": 2, "patterns": 1, "configs": 2,
        "measurements": 3, "decisions": 2, "rates": 1,
    }  # fmt: skip
    assert len(text.splitlines()) == 4 + sum(counts.values()) + 2 * len(counts)


def test_adding_a_measurement_adds_one_line(filled, add, text):
    add(filled, problem=Problem.self_attention(1024), config=Config.of("sdpa", backend="math"))
    after = results_text(filled.results())
    bare = {line.rstrip(",") for line in text.splitlines()}
    added = [line for line in after.splitlines() if line.rstrip(",") not in bare]
    assert len(added) == 2  # the measurement, and the run it belongs to


def test_results_of_one_kind_of_device(filled, add, add_rate, environment):
    gpu = replace(environment, device="cuda", device_name="Some GPU")
    add(filled, environment=gpu)
    add_rate(filled, environment=gpu)
    for wanted in ({"device": "cuda"}, {"device_name": "Some GPU"}):
        results = filled.results(**wanted)
        assert {fact.environment for fact in (*results.records, *results.rates)} == {gpu}
        assert results.choices == []
    assert results_of(results_text(filled.results(device="cpu")), "t.json").choices != []


def test_infinity_has_no_number_in_json(store, add):
    add(store, measurement=Measurement(status=Status.WRONG_RESULT, rel_error=float("inf"), max_abs_error=None))
    text = results_text(store.results())
    assert '"rel_error": "inf"' in text
    assert results_of(text, "t.json").records[0].measurement.rel_error == float("inf")


def test_a_change_of_what_is_written_needs_a_new_version():
    """Older readers refuse fields that they do not know; raise `VERSION`, read the older ones, then change this."""
    written = {kind.__name__: sorted(readers) for kind, readers in FIELDS.items()}
    assert VERSION == 1
    assert {kind.__name__: sorted(f.name for f in fields(kind)) for kind in FIELDS} == written
    assert written["Measurement"] == [
        "compile_s", "gate_s", "max_abs_error", "peak_memory_bytes", "predicted_memory_bytes", "race", "reason",
        "rel_error", "signal", "status", "times_ms", "timing_s",
    ]  # fmt: skip
    assert set(FIELDS) == {Environment, Measurement, Problem, Run}
    assert {f.name for f in fields(Record)} == {
        "id", "uid", "created_at", "run", "environment", "problem", "pattern", "config", "measurement",
    }  # fmt: skip
    assert (len(fields(Choice)), len(fields(Rate))) == (8, 7)
    assert [f.name for f in fields(Results)] == ["records", "choices", "rates"]


def test_a_home_of_keys_is_written_only_where_it_is_not_the_device(store, add):
    """Files from before there was a choice are read, and their problems written, as ever."""
    here = Problem.self_attention(1024)
    for problem in (here, replace(here, kv_home="host")):
        add(store, problem=problem)
    problems = json.loads(results_text(store.results()))["problems"]
    assert "kv_home" not in problems[here.key]
    assert problems[f"{here.key}/kv-host"] == problems[here.key] | {"kv_home": "host"}


def refused(text):
    with pytest.raises(StoreError) as caught:
        results_of(text, "t.json")
    message = str(caught.value)
    assert "\n" not in message
    assert "t.json" in message
    return message


def test_a_newer_format_is_refused(text):
    assert refused(text.replace(f'"version": {VERSION}', '"version": 99')) == (
        f"results file t.json has format version 99, newer than this autotune reads ({VERSION}); upgrade autotune"
    )


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_torn_text_is_refused(text, kept):
    assert "is torn or no JSON" in refused(text[: int(len(text) * kept)])


@pytest.mark.parametrize("foreign", ["[]", "{}", "3", '{"format": "other"}', '"autotune results"'])
def test_json_of_another_program_is_refused(foreign):
    assert "is not a results file of `autotune export`" in refused(foreign)


@pytest.mark.parametrize("hostile", ["[" * 100_000, "NaN", "\0", '{"format": "autotune results", "x": Infinity}'])
def test_text_that_no_parser_likes_is_refused(hostile):
    assert "is torn or no JSON" in refused(hostile)


def edited(text, section, **changes):
    """The text with the first entry of a section changed; None takes a field out."""
    document = json.loads(text)
    entries = document[section]
    entry = entries[0] if isinstance(entries, list) else next(iter(entries.values()))
    for name, value in changes.items():
        entry.pop(name, None)
        if value is not None:
            entry[name] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("section", "changes", "detail"),
    [
        ("measurements", {"status": "splendid"}, "'splendid' is not a valid Status"),
        ("measurements", {"status": None}, "status"),
        ("measurements", {"times_ms": "fast"}, "'f'"),
        ("measurements", {"times_ms": 3}, "int"),
        ("measurements", {"peak_memory_bytes": 1.5}, "1.5"),
        ("measurements", {"reason": 7}, "7"),
        ("measurements", {"surprise": 1}, "surprise"),
        ("measurements", {"uid": "x"}, "32 hexadecimal digits"),
        ("measurements", {"uid": None}, "'uid' is missing"),
        ("measurements", {"config": "nowhere"}, "'nowhere' is missing"),
        ("measurements", {"created_at": "yesterday"}, "yesterday"),
        ("measurements", {"created_at": "2026-01-01T00:00:00"}, "has no zone"),
        ("decisions", {"measurement": "nowhere"}, "'nowhere' is missing"),
        ("decisions", {"candidates": "many"}, "'many'"),
        ("environments", {"torch_version": "9.9"}, "is not what its name says"),
        ("environments", {"threads": None}, "threads"),
        ("problems", {"kv_heads": 3}, "must be a multiple of kv_heads, 3"),
        ("problems", {"causal": "yes"}, "'yes'"),
        ("patterns", {"kind": "spiral"}, "spiral"),
        ("configs", {"params": {"x": [1]}}, "must be text"),
        ("configs", {"params": 3}, "int"),
        ("rates", {"dtype": 3}, "3"),
    ],
    ids=str,
)
def test_an_edited_entry_that_makes_no_sense_is_refused(text, section, changes, detail):
    message = refused(edited(text, section, **changes))
    assert message.startswith("results file t.json is damaged (")
    assert detail in message


@pytest.mark.parametrize("section", ["environments", "runs", "problems", "measurements", "decisions", "rates"])
def test_a_missing_section_is_refused(text, section):
    document = json.loads(text)
    del document[section]
    assert f"'{section}' is missing" in refused(json.dumps(document))


def test_two_measurements_of_one_uid_are_refused(text):
    document = json.loads(text)
    document["measurements"] *= 2
    assert "two measurements have the same uid" in refused(json.dumps(document))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"results\.json .*(No such file|no text at all)"):
        read_results_file(path)
