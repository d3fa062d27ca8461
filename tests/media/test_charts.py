"""Charts: values lie where the axes say, and every bar is as long as its count."""

import numpy as np

from lipbench.media import charts


def colored(pixels, color):
    return (np.abs(pixels.astype(int) - color).max(-1) < 40).nonzero()


def test_a_line_rises_with_its_values():
    line = charts.Series("a", [0, 1, 2], [0, 0, 10])
    pixels = charts.line_chart([line], "title", "x", "y", (200, 300))
    assert pixels.shape == (200, 300, 3)
    rows, columns = colored(pixels, charts.BLUE)
    left, right = rows[columns < 160].mean(), rows[columns == columns.max()].mean()
    assert left > right + 80
    assert np.ptp(rows[columns < 160]) < 4  # flat up to the middle


def test_several_lines_have_a_legend():
    lines = [charts.Series("first", [0, 1], [0, 1]), charts.Series("second", [0, 1], [1, 0], charts.ORANGE)]
    for color in (charts.BLUE, charts.ORANGE):
        assert (colored(charts.line_chart(lines, "", "x", "y", (200, 300)), color)[0] < 40).any()
    assert not (colored(charts.line_chart(lines[:1], "", "x", "y", (200, 300)), charts.BLUE)[0] < 40).any()


def test_many_labels_take_several_lines_above_the_axes():
    lines = [charts.Series(f"system number {k}", [0, 1], [0, 1], charts.ORANGE if k else charts.BLUE) for k in range(9)]
    pixels = charts.line_chart(lines, "", "x", "y", (300, 500))
    first, others = (colored(pixels, color)[0] for color in (charts.BLUE, charts.ORANGE))
    assert first.min() < 40
    assert others[others < 80].max() > first[first < 80].max() + 20  # the last label is lines below the first one
    assert colored(pixels, charts.ORANGE)[1].min() > 20  # and none runs out on the left


def test_a_logarithmic_axis_shows_equal_factors_as_equal_distances():
    line = charts.Series("a", [0, 1, 2], [1, 10, 100])
    rows, columns = colored(charts.line_chart([line], "title", "x", "y", (200, 300), log=True), charts.BLUE)
    left, middle, right = (rows[np.abs(columns - place) < 2].mean() for place in (49, 166, 283))
    assert abs(left - 2 * middle + right) < 3
    assert left - right > 80
    assert np.allclose([10**power for power in charts._powers(0.2, 1.4)], [2, 5, 10, 20])
    assert charts._powers(-0.5, 4.1) == [0, 1, 2, 3, 4]


def test_a_constant_line_and_a_single_point_can_be_drawn():
    for x in ([0, 1], [3]):
        rows, _ = colored(charts.line_chart([charts.Series("", x, [5] * len(x))], "", "", "", (200, 300)), charts.BLUE)
        assert len(x) == 1 or abs(rows.mean() - 103) < 2


def test_bars_are_as_long_as_their_counts():
    pixels = charts.bar_chart([10, 0, 5], ["a", "b", "c"], "title", "x", "y", (300, 400))
    _, columns = colored(pixels, charts.BLUE)
    first, second = (columns[columns < 200], columns[columns > 200])
    heights = [np.unique(part, return_counts=True)[1].max() for part in (first, second)]
    assert abs(heights[0] - 2 * heights[1]) <= 2
    middle = 48 + (400 - 64) // 2
    assert not np.isin(range(middle - 30, middle + 30), columns).any()


def test_ticks_are_round():
    assert charts._steps(-8, 8) == [-5, 0, 5]
    assert charts._steps(0, 7) == [0, 2, 4, 6]
    assert charts._steps(3, 3) == [3]


def test_points_of_a_plane_keep_their_distances_and_colors():
    square = charts.Series("b (4)", [0, 0, 10, 10], [0, 10, 0, 10])
    middle = charts.Series("p (1)", [5], [5], charts.ORANGE)
    pixels = charts.scatter_chart([square, middle], "title", "note", (300, 500))
    assert pixels.shape == (300, 500, 3)
    blue, orange = (np.stack(colored(pixels[44:], color)) for color in (charts.BLUE, charts.ORANGE))  # rows, columns
    center = orange.mean(1)
    assert np.abs(center - (blue.min(1) + blue.max(1)) / 2).max() < 1.5
    height, width = np.ptp(blue, axis=1)
    assert abs(height - width) <= 2  # though the chart is wider than high
    assert height > 200
    corner = blue[:, (blue[0] < center[0]) & (blue[1] < center[1])]
    assert np.ptp(corner, axis=1).max() <= 2 * charts._DOT
    for color in (charts.BLUE, charts.ORANGE):
        assert (colored(pixels, color)[0] < 44).any()  # the legend


def test_a_single_point_lies_in_the_middle():
    rows, columns = colored(charts.scatter_chart([charts.Series("", [3], [-2])], "", "", (300, 300)), charts.BLUE)
    assert abs(rows.mean() - (44 + 290) / 2) < 1.5
    assert abs(columns.mean() - 150) < 1.5
