"""One mitigation a file. The engine finds them through `_target_` in conf/method."""
