"""Scored snapshot to candidate version, or a recorded reason why not.

Never touches live traffic and never trains on a held-out row.
"""
