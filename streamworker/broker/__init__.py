"""Redis or Valkey: delivers jobs and carries progress; nothing in it is needed to go on."""
