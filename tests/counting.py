"""How many threads a fit takes; it loads neither fastadam nor scikit-learn, whose order of import matters to a test."""

import threading

import numpy as np


def threads_of_a_fit(model):
    """The leader, and whatever threads of the name "fastadam" start during a fit that is worth several."""
    X = np.random.default_rng(0).random((900, 30))
    started, start = [], threading.Thread.start

    def start_and_note(thread):
        start(thread)
        if thread.name == "fastadam":
            started.append(thread)

    threading.Thread.start = start_and_note
    try:
        model.set_params(hidden_layer_sizes=(90, 70), batch_size=450, max_iter=2).fit(X, X[:, 0])
    finally:
        threading.Thread.start = start
    return 1 + len(started)
