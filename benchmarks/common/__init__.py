"""What benchmarks share: servers, models, machines and programs; imports no benchmark."""
