-- Airflow's tables stand in a database of their own, beside the lake's catalog and our state.
CREATE DATABASE airflow OWNER everlearn;
