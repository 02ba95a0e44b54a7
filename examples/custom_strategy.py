"""A strategy of your own, beside random search: regularised evolution in twenty lines."""

from collections import deque
from dataclasses import dataclass

import numpy as np

import nasfw


@dataclass(frozen=True)
class Evolution(nasfw.Strategy):
    """Mutates the best of some of a population whose oldest member dies (Real et al. 2019)."""

    population: int = 4
    sample: int = 2
    trials: int = 8

    def search(self, problem, evaluate):
        rng = np.random.default_rng(problem.seed)
        first = problem.objectives[0]
        alive = deque(maxlen=self.population)
        for _ in range(self.trials):
            architecture = problem.space.sample(rng)
            if len(alive) == self.population:
                drawn = [alive[i] for i in rng.choice(len(alive), self.sample, replace=False)]
                parent = max(drawn, key=lambda r: r.values[first.name] * (1 if first.maximise else -1))
                architecture = problem.space.mutate(parent.architecture, rng)
            alive += [r for r in evaluate([nasfw.Trial(architecture, problem.recipe)]) if not r.error]


if __name__ == "__main__":
    # What is counted takes no measurements, and what is not exported no time.
    counted = {"objectives": ["accuracy", "parameters"], "export": False}
    result = nasfw.run(strategy=Evolution(trials=6), effort=0.02, final={"seeds": 1, "limit": 2}, **counted)
    print(f"{result.trials} networks trained; the front on the test split:")
    for network in result.front:
        print(f"  accuracy {network.median['accuracy']:.3f}, parameters {network.median['parameters']:.0f}")
