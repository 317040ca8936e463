"""Servers that the product talks to.

- ``mlflow_server``: a real ``mlflow server`` that can be killed and started again, and a gateway before it
- ``wandb_stub``: as much of a W&B server as the SDK needs, in memory
"""
