"""Fixtures of the model tests; what they give lies in fake_data.py."""

from collections.abc import Callable, Iterator

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch, make_expert, make_trainer

from lipbench.types import ClipBatch


@pytest.fixture
def batch_for() -> Callable[..., ClipBatch]:
    return make_batch


@pytest.fixture
def fake_data() -> Callable[..., FakeData]:
    return FakeData


@pytest.fixture(scope="session")
def expert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_expert(tmp_path_factory.mktemp("expert"))


@pytest.fixture
def trainer_for() -> Callable[..., pl.Trainer]:
    return make_trainer


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """Small networks lose time to threads; and one thread count makes runs comparable bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def expert_for() -> Callable[..., str]:
    return make_expert
