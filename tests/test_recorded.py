"""Every recorded array has a test. Runs after the files that read them: test_convert, test_goldens_*, test_likelihood."""

import pytest
import recorded

READERS = {"test_convert", "test_goldens_losses", "test_goldens_samplers", "test_goldens_schedules", "test_likelihood"}


def test_every_recorded_array_is_read(request):
    running = {item.path.stem for item in request.session.items}
    if not running >= READERS or request.config.option.keyword:
        pytest.skip("only the whole suite reads them all")
    for file in recorded.FOLDER.glob("*.npz"):
        arrays = recorded.load(file.stem)
        assert set(arrays) == arrays.read, f"{file.name}: {sorted(set(arrays) - arrays.read)}"
