from fastadam.formulas.network import Samples, shapes_of


def test_the_parameters_of_a_network_are_named_and_ordered_layer_by_layer():
    shapes = shapes_of([4, 3, 2])
    assert list(shapes.items()) == [("W0", (4, 3)), ("b0", (3,)), ("W1", (3, 2)), ("b1", (2,))]
    assert shapes_of([4]) == {}


def test_kernels_find_the_arrays_of_samples_by_their_place():
    assert Samples._fields == ("X", "data", "indices", "indptr", "y", "weight")
