"""What a chunk needs, what there is, and how many rows fit."""

import psutil
import pytest
import torch

from synthicl.core import memory
from synthicl.core.errors import UserError
from synthicl.core.memory import free_bytes, largest_chunk, saved_bytes

CPU = torch.device("cpu")


def test_saved_bytes_are_those_of_the_tensors_that_the_backward_pass_reads():
    x = torch.rand(1000, requires_grad=True)
    assert saved_bytes(lambda: x + 1) == 0
    assert saved_bytes(lambda: x.exp()) == 4000  # its result
    assert saved_bytes(lambda: x.exp().exp()) == 8000
    assert saved_bytes(lambda: x * x) == 4000  # both factors are one storage
    assert saved_bytes(lambda: x.view(10, 100) * x.view(10, 100)[:]) == 4000


def test_saved_bytes_of_many_rows_grow_as_rows_do():
    layer = torch.nn.Linear(64, 64).requires_grad_(False)

    def forward(rows: int) -> torch.Tensor:
        return layer(torch.rand(rows, 64, requires_grad=True)).exp()

    sizes = [saved_bytes(lambda rows=rows: forward(rows)) for rows in (1, 2, 5)]
    assert sizes[1] - sizes[0] == 64 * 4
    assert sizes[2] - sizes[1] == 3 * 64 * 4


@pytest.mark.parametrize(
    ("rows", "free", "expected"),
    [(10, 1e9, 10), (100, 1e9, 100), (1000, 1e6, 256), (1000, 2.1e6, 1000), (1000, 2e3, 1), (0, 1e9, 0)],
)
def test_all_rows_or_a_power_of_two(rows, free, expected, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(free))
    assert largest_chunk(rows, 1000, CPU) == expected


def test_what_must_stay_free_and_who_shares_is_counted(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000)
    assert largest_chunk(1000, 1000, CPU, kept=700_000) == 128  # 0.5 x 300
    assert largest_chunk(1000, 1000, CPU, sharers=4) == 64  # 0.5 x 250
    message = (
        r"0\.0 GiB are free on cpu, and this run's images need .* Use more devices, or lower --model\.images\.size"
    )
    with pytest.raises(UserError, match=message):
        largest_chunk(1000, 1000, CPU, kept=999_500)


def test_free_memory_is_what_the_machine_or_the_control_group_leaves(tmp_path, monkeypatch):
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("0::/job/step\n")
    assert memory._free_in_control_group(root, own) > 2**60
    for folder, limit, used in (("job", "5000", "1000"), ("job/step", "max", "900")):
        (root / folder).mkdir(parents=True)
        (root / folder / "memory.max").write_text(f"{limit}\n")
        (root / folder / "memory.current").write_text(f"{used}\n")
        (root / folder / "memory.stat").write_text("anon 1\ninactive_file 300\nactive_file 5\n")
    assert memory._free_in_control_group(root, own) == 4300
    own.write_text("5:cpu:/\n4:memory:/old\n")
    (root / "memory/old").mkdir(parents=True)
    (root / "memory/old/memory.limit_in_bytes").write_text("9000\n")
    (root / "memory/old/memory.usage_in_bytes").write_text("2000\n")
    (root / "memory/old/memory.stat").write_text("inactive_file 10\n")
    assert memory._free_in_control_group(root, own) == 7010
    monkeypatch.setattr(memory, "_free_in_control_group", lambda: 4000)
    assert free_bytes(CPU) == 4000
