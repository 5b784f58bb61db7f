"""Asks Spark the standard questions: a cluster of two executors, each a process of its own.

Without the jar of Delta's connector: the files of the newest version are what the table is.
"""

import sys
import time

from deltalake import DeltaTable
from pyspark.sql import SparkSession
from standard import TABLES, compare

MASTER = "local-cluster[2,1,700]"
SPELLING = {
    "p50": "percentile(%s, 0.5)",
    "p95": "percentile(%s, 0.95)",
    "text": "CAST(%s AS STRING)",
}


def main() -> int:
    lake = sys.argv[1]
    began = time.monotonic()
    spark = (
        SparkSession.builder.master(MASTER)
        .appName("edge-store lake")
        .config("spark.executor.memory", "600m")
        .config("spark.driver.memory", "1g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    try:
        for table in TABLES:
            files = DeltaTable(f"{lake}/{table}").file_uris()
            reader = spark.read.option("basePath", f"{lake}/{table}").option("mergeSchema", "true")
            reader.parquet(*files).createOrReplaceTempView(table)
        differing = compare(
            f"Spark {spark.version}", lake, lambda query: spark.sql(query).collect(), SPELLING
        )
    finally:
        spark.stop()
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
