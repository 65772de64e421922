"""Model versions, lineage and the offline gate, over MLflow. Never moves traffic."""
