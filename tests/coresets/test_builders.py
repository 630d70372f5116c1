"""Builders of real contexts against brute force in plain loops."""

import itertools
import math

import pytest
import torch

from synthicl.coresets.centroid import centroid
from synthicl.coresets.facility_location import facility_location
from synthicl.coresets.herding import herding
from synthicl.coresets.k_center import k_center
from synthicl.coresets.kmeans_medoids import kmeans_medoids
from synthicl.coresets.nearest_neighbours import nearest_neighbours
from synthicl.embeddings.labelled import LabelledEmbeddings

BUILDERS = {
    "herding": herding,
    "kmeans_medoids": kmeans_medoids,
    "k_center": k_center,
    "facility_location": facility_location,
}
DETERMINISTIC = [name for name in BUILDERS if name != "kmeans_medoids"]
every_builder = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def problem(n=26, dim=4, seed=0):
    """Embeddings (n, dim) far from the origin and labels with a gap: 1, 2 and 5."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor([1, 2, 5])[torch.randint(3, (n,), generator=generator)]
    return torch.randn(n, dim, generator=generator) + y[:, None], y


Z, Y = problem()
TRAIN = LabelledEmbeddings(Z, Y)


def distance(a, b):
    """Rounded, so that of equal ones ``min`` and ``max`` take the first."""
    return round(math.dist(a.tolist(), b.tolist()), 9)


def members(label, y=Y):
    return [i for i in range(len(y)) if y[i] == label]


def mean_of(rows, z=Z):
    return torch.tensor([sum(z[i, k].item() for i in rows) / len(rows) for k in range(z.shape[1])], dtype=torch.float64)


def herding_step(chosen, rows):
    def miss(i):
        return distance(mean_of([*chosen, i]), mean_of(rows))

    return min((i for i in rows if i not in chosen), key=miss)


def k_center_step(chosen, rows):
    if not chosen:
        return min(rows, key=lambda i: distance(Z[i], mean_of(rows)))
    return max((i for i in rows if i not in chosen), key=lambda i: min(distance(Z[i], Z[j]) for j in chosen))


def coverage(chosen, rows, z=Z):
    """The value that facility location maximises."""
    widest = max(distance(z[i], z[j]) for i in rows for j in rows)
    return sum(max(widest - distance(z[i], z[j]) for j in chosen) for i in rows)


def facility_location_step(chosen, rows):
    return max((i for i in rows if i not in chosen), key=lambda i: round(coverage([*chosen, i], rows), 7))


@pytest.mark.parametrize("ipc", [1, 2, 5])
@pytest.mark.parametrize(
    ("build", "step"),
    [(herding, herding_step), (k_center, k_center_step), (facility_location, facility_location_step)],
)
def test_each_choice_is_the_best_next_one(build, step, ipc):
    expected = []
    for label in (1, 2, 5):
        chosen = []
        for _ in range(ipc):
            chosen.append(step(chosen, members(label)))
        expected += chosen
    assert build(TRAIN, ipc, 0).indices.tolist() == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ipc", [1, 2, 3])
def test_greedy_facility_location_is_within_its_bound(ipc, seed):
    z, _ = problem(9, 3, seed)
    rows = range(9)
    greedy = coverage(
        facility_location(LabelledEmbeddings(z, torch.zeros(9, dtype=torch.long)), ipc, 0).indices.tolist(), rows, z
    )
    best = max(coverage(subset, rows, z) for subset in itertools.combinations(rows, ipc))
    assert (1 - 1 / math.e) * best <= greedy <= best + 1e-5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ipc", [2, 3])
def test_k_center_is_within_twice_the_smallest_radius(ipc, seed):
    z, _ = problem(9, 3, seed)

    def radius(chosen):
        return max(min(distance(z[i], z[j]) for j in chosen) for i in range(9))

    greedy = radius(k_center(LabelledEmbeddings(z, torch.zeros(9, dtype=torch.long)), ipc, 0).indices.tolist())
    assert greedy <= 2 * min(radius(subset) for subset in itertools.combinations(range(9), ipc))


def test_one_image_per_class():
    """Herding, k-center and one cluster are the centroid; facility location is the medoid."""
    expected = centroid(TRAIN, 1, 0).indices
    for build in (herding, k_center, kmeans_medoids):
        assert torch.equal(build(TRAIN, 1, 0).indices, expected)
    medoids = [
        min(members(label), key=lambda i: sum(distance(Z[i], Z[j]) for j in members(Y[i]))) for label in (1, 2, 5)
    ]
    assert facility_location(TRAIN, 1, 0).indices.tolist() == medoids


def test_herding_stays_nearer_to_the_mean_than_the_centroid_rows_do():
    rows = members(1)
    herded, central = ([i for i in build(TRAIN, 4, 0).indices.tolist() if i in rows] for build in (herding, centroid))
    assert distance(mean_of(herded), mean_of(rows)) < distance(mean_of(central), mean_of(rows))


@pytest.mark.parametrize("ipc", [2, 3])
def test_kmeans_medoids_are_nearest_to_the_best_of_all_partitions(ipc):
    """On so few rows the best of ten starts is the optimum, found here by looking at every partition."""
    z, _ = problem(7, 2)

    def centres(partition):
        return [mean_of([i for i in range(7) if partition[i] == k], z) for k in range(ipc)]

    def cost(partition):
        found = centres(partition)
        return sum(distance(z[i], found[partition[i]]) ** 2 for i in range(7))

    best = min((p for p in itertools.product(range(ipc), repeat=7) if len(set(p)) == ipc), key=cost)
    expected = {min(range(7), key=lambda i: distance(z[i], centre)) for centre in centres(best)}
    assert len(expected) == ipc
    assert (
        set(kmeans_medoids(LabelledEmbeddings(z, torch.zeros(7, dtype=torch.long)), ipc, 0).indices.tolist())
        == expected
    )


def test_kmeans_medoids_finds_one_of_each_cluster():
    cluster = torch.arange(24) % 3
    y = torch.arange(24) // 12
    z = 50 * torch.eye(3)[cluster] + torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    for seed in range(4):
        chosen = kmeans_medoids(LabelledEmbeddings(z, y), 3, seed).indices
        assert [set(cluster[part].tolist()) for part in chosen.split(3)] == [{0, 1, 2}] * 2


def test_kmeans_medoids_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = kmeans_medoids(TRAIN, 3, 7).indices
    torch.manual_seed(2)
    assert torch.equal(kmeans_medoids(TRAIN, 3, 7).indices, first)


@every_builder
@pytest.mark.parametrize("ipc", [1, 3, 8, 100])
def test_rows_are_the_images_and_no_image_comes_twice(build, ipc):
    chosen = build(TRAIN, ipc, 0)
    assert torch.equal(chosen.rows.z, Z[chosen.indices])
    assert torch.equal(chosen.rows.y, Y[chosen.indices])
    assert len(set(chosen.indices.tolist())) == len(chosen.indices)
    assert torch.equal(chosen.rows.y.bincount(), Y.bincount().clamp(max=ipc))


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("ipc", [1, 3, 5])
def test_order_and_seed_do_not_matter(name, ipc):
    z, y = problem(90, 2)  # dense enough that no two rows stand for each other alone, which is a tie
    order = torch.randperm(90, generator=torch.Generator().manual_seed(3))
    chosen = BUILDERS[name](LabelledEmbeddings(z, y), ipc, 0).indices
    permuted = BUILDERS[name](LabelledEmbeddings(z, y).at(order), ipc, 5).indices
    assert set(order[permuted].tolist()) == set(chosen.tolist())


@every_builder
def test_equal_images_are_chosen_in_their_order(build):
    """Also more of them than there are different images."""
    z = torch.tensor([[0.1, 3.0], [0.7, 1.0]])[torch.tensor([0, 0, 1, 0, 0])]
    y = torch.zeros(5, dtype=torch.long)
    assert build(LabelledEmbeddings(z, y), 1, 0).indices.tolist() == [0]
    chosen = build(LabelledEmbeddings(z, y), 4, 0).indices.tolist()
    assert sorted(chosen) == [0, 1, 2, 3]
    assert [i for i in chosen if i != 2] == [0, 1, 3]


@every_builder
@pytest.mark.parametrize("seed", range(5))
def test_the_first_of_two_that_lie_the_same_way(build, seed):
    """Both are equally near to their mean, and stand for each other equally well."""
    z = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed)) * 10
    assert build(LabelledEmbeddings(z, torch.zeros(2, dtype=torch.long)), 1, 0).indices.tolist() == [0]


@every_builder
def test_gaps_and_single_images(build):
    z, y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 2, 5, 5])
    assert build(LabelledEmbeddings(z, y), 2, 0).rows.y.tolist() == [2, 5, 5]


@pytest.mark.parametrize("seed", range(3))
def test_nearest_neighbours_by_brute_force(seed):
    z, y = problem(10, 3, seed)
    synthetic_z, synthetic_y = problem(12, 3, seed + 100)
    expected = []
    for point, label in zip(synthetic_z, synthetic_y.tolist(), strict=True):
        free = [i for i in members(label, y) if i not in expected]
        if free:
            expected.append(min(free, key=lambda i, point=point: distance(z[i], point)))
    chosen = nearest_neighbours(LabelledEmbeddings(z, y), LabelledEmbeddings(synthetic_z, synthetic_y))
    assert chosen.indices.tolist() == expected
    assert torch.equal(chosen.rows.z, z[chosen.indices])
    assert torch.equal(chosen.rows.y, y[chosen.indices])


def test_nearest_neighbours_of_real_images_are_these():
    order = torch.randperm(len(Y), generator=torch.Generator().manual_seed(4))
    assert torch.equal(nearest_neighbours(TRAIN, TRAIN.at(order)).indices, order)


def test_nearest_neighbours_of_a_class_without_images():
    chosen = nearest_neighbours(TRAIN, LabelledEmbeddings(torch.zeros(3, 4), torch.tensor([0, 5, 9])))
    assert chosen.rows.y.tolist() == [5]
