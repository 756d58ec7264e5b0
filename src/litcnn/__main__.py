from litcnn.cli import main

main()
