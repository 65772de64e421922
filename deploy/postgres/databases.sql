-- The tables of Airflow and of MLflow stand in databases of their own, beside the lake's catalog and
-- our state.
CREATE DATABASE airflow OWNER everlearn;
CREATE DATABASE mlflow OWNER everlearn;
