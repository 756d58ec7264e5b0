from litengine.cli import main

main()
