package capture_test

const childName = "adit-capture-child"

func childAgent() int { return 0 }
