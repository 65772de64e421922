"""Judge models: how they are asked (`client`) and how their answers are read (`verdict`)."""
