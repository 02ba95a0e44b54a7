"""What ``nasfw run --help`` says."""

GUIDE = """Search, train the front again, and compare it with the plain backbone and random search.

Settings are written `name=value`, in any order. A plugin is a name, and `name.parameter=value` sets one of
its parameters; `nasfw plugins` lists the plugins, `nasfw plugins NAME` the parameters of one. Examples:

- `nasfw run task=digits spaces=aggconv strategy=dash`
- `nasfw run task=my.npz` searches on your arrays `x_train`, `y_train` and, if there, `x_test`, `y_test`
- `nasfw run strategy=random strategy.trials=8 final.seeds=1`
- `nasfw run strategy.epochs=20 spaces.kernel_sizes=[3,5] objectives=[accuracy,flops]`
- `nasfw run config=settings.yaml seed=1 folder=runs/mine`

What there is to set:

- `task`: a plugin or a file `.npz`; `spaces`: one or a list; `strategy`: how to search
- `objectives`: quality first, then what it is traded for; by default latency, and energy where possible
- `hardware`: devices that measure latency, energy and memory: host (the default), cuda, remote, table
- `compute`: where training runs: auto, cpu, cuda:0; `executor`: serial or processes
- `budget.trials`, `budget.seconds`: when the search ends at the latest
- `recipe.NAME`: how networks are trained: epochs, lr, batch_size, optimizer, weight_decay, dropout, ...
- `recipe.transform_NAME`: for what shapes operations: optimizer, lr, momentum, decay, warmup, cooldown
- `final.epochs`, `final.seeds` (how many), `final.limit`, `final.least` (networks), or `final=false` for none
- `yardsticks`: what the result is compared with: [plain,random], one of them, or []
- `seed`: of everything; `folder`: of the run, by default a new one in `runs`
- `experiment`: quick (the default without a GPU), paper, paper_darts or paper_xd (the published constants)
- `effort`: in quick, how long trainings last: 1 is some minutes for a small task; sets epochs and fraction
- `export`: false if the final networks are not to be written as files that work without nasfw
- `config`: a YAML file with any of these, below the command line

The same command goes on where it stopped.
"""
