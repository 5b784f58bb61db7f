"""Every input that fuzzing has kept still holds (tests/support/fuzzing.py says what)."""

import pytest
from support.fuzzing import CORPUS, TARGETS, names_of


def test_each_target_has_a_corpus() -> None:
    assert sorted(TARGETS) == sorted(path.name for path in CORPUS.iterdir())
    assert all(names_of(target) for target in TARGETS)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_what_fuzzing_kept_still_holds(target: str) -> None:
    for name in names_of(target):
        data = (CORPUS / target / name).read_bytes()
        try:
            TARGETS[target](data)
        except Exception as exc:
            exc.add_note(f"tests/corpus/{target}/{name}: {data!r}")
            raise
