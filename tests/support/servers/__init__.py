"""Servers that the product talks to.

- ``mlflow_server``: a real ``mlflow server``, one for all or one that can be killed; and a gateway before it
- ``mlflow_store``: a local MLflow store to begin with
- ``wandb_stub``: as much of a W&B server as the SDK needs, in memory
"""
