"""How close generated images are to real ones: functions of features, arrays [N, D], that know no network and no disk."""
