# %% [markdown]
# # Report of a sweep
#
# Everything below is read from the sweep's records by `bench.report`; execute the cells again after more runs are done.

# %%
import bench.report

sweep = bench.report.open(".")

# %% [markdown]
# ## Question and answer

# %%
sweep.show("question")

# %%
sweep.show("answers")

# %% [markdown]
# ## Variants
#
# Each setting as it was resolved: an encoder E looks at each view alone, an aggregator A exchanges information across
# views, a head D gives the dense output.

# %%
sweep.show("variants")

# %%
sweep.show("drawings")

# %% [markdown]
# ## Results
#
# Quality: means over the evaluation scenes, none of which was trained on, under the protocol that the caption names.

# %%
sweep.show("results")

# %%
sweep.show("systematization")

# %%
sweep.figure("comparison")

# %% [markdown]
# ## The paper

# %%
sweep.show("paper")

# %% [markdown]
# ## Loss curves

# %%
sweep.figure("loss_curves")

# %% [markdown]
# ## Pictures and depth

# %%
sweep.figure("qualitative")

# %% [markdown]
# ## Parameters, memory and time

# %%
sweep.show("costs")

# %% [markdown]
# ## Failures

# %%
sweep.show("failures")

# %% [markdown]
# ## Environment

# %%
sweep.show("environment")

# %% [markdown]
# ## Reproduce

# %%
sweep.show("reproduce")

# %% [markdown] tags=["notebook"]
# ## Go on from here
#
# The same numbers as pandas DataFrames. `sweep.differences()` has a row a comparison and metric, `sweep.scenes()` a row
# a run and evaluation scene; `sweep.paper()`, `sweep.deviations()` and `sweep.costs()` are the tables above.

# %% tags=["notebook"]
sweep.runs()

# %% tags=["notebook"]
sweep.table()

# %% tags=["notebook"]
sweep.differences()

# %% tags=["notebook"]
sweep.scenes().head()

# %% tags=["notebook"]
sweep.metrics().tail()
